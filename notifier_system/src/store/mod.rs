//! All SQL of notifier_system: what was sent, what is being sent, what waits ([`parked`]), and who is gone.

mod parked;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::db::{Db, Tx};
use common::messages::Letter;
use common::on;
use common::trace::Trace;
use common::types::Account;
use sqlx::QueryBuilder;

pub(crate) use parked::Postponed;
use parked::Waiting;

/// How long a mail on its way is left alone, in seconds. Longer than sending one can take.
const LEASE: i64 = 180;
/// For so long after the database was away no lease of another replica is taken over.
const HOLD_OFF: Duration = Duration::from_secs(15);

/// A letter with what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) letter: Letter,
    /// The request that caused it.
    pub(crate) trace: Trace,
    /// Where it stood on the bus, `<topic>/<partition>/<offset>`.
    pub(crate) origin: String,
}

/// What is to be done with a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Send it; nobody else does.
    Send,
    /// It was sent already.
    Sent,
    /// Its account was deleted.
    Forgotten,
    /// It waits: the server does not take it for now, or one before it to the same address, or another replica was about to
    /// send it.
    Parked,
    /// Somebody else is sending it.
    Elsewhere,
    /// Not now: as many mails as may have left. There is room again in so long.
    Limited(Duration),
}

/// Where a mail comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Bus,
    Parking,
}

/// So many mails may leave within so many seconds, over all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) most: i64,
    pub(crate) seconds: i64,
}

#[derive(Clone)]
pub(crate) struct Store {
    db: Db,
    /// Names this replica: after a restart it takes up its own leases.
    holder: String,
    limits: Arc<[Limit]>,
    absence: Arc<Mutex<Absence>>,
}

/// Of the database. A start is one, too: nobody knows what was before it.
#[derive(Clone, Copy, Debug)]
enum Absence {
    Lasts,
    Ended(Instant),
}

impl Store {
    pub(crate) fn new(db: Db, holder: &str, limits: Vec<Limit>) -> Store {
        Store {
            db,
            holder: holder.to_owned(),
            limits: limits.into(),
            absence: Arc::new(Mutex::new(Absence::Lasts)),
        }
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.db.ping().await
    }

    /// Takes the lease on a mail, unless it needs no sending now. One that comes from the bus while others to its address wait is
    /// parked behind them.
    pub(crate) async fn begin(&self, mail: &Mail, source: Source) -> anyhow::Result<Leave> {
        self.noted(self.try_begin(mail, source).await)
    }

    async fn try_begin(&self, mail: &Mail, source: Source) -> anyhow::Result<Leave> {
        let letter = &mail.letter;
        let mut tx = self.db.begin().await?;
        // Mails to an address come one after another out of one partition, so nobody parks one meanwhile. Of somebody else's
        // producer, one may overtake another here.
        let waiting = match source {
            Source::Bus => parked::waiting(&mut tx, &letter.id, letter.email.as_str()).await?,
            Source::Parking => Waiting::default(),
        };
        // One that waits already, and comes again, is left to those who try it: they may have it in hand.
        if waiting.itself {
            return Ok(Leave::Parked);
        }
        if !self.limits.is_empty() {
            count_alone(&mut tx).await?;
        }
        let now = tx.now().await?;
        let mut leave = self.lease(&mut tx, &letter.id, letter.account, now).await?;
        // What another replica has in hand may wait for its lease to end, too: that replica may have been killed.
        let is_to_wait = match leave {
            Leave::Send => waiting.others,
            Leave::Elsewhere => source == Source::Bus,
            _ => false,
        };
        if is_to_wait {
            parked::put_behind(&mut tx, mail, now).await?;
            leave = Leave::Parked;
        }
        // Since it was found, another replica may have tried it, or buried it.
        if source == Source::Parking
            && leave == Leave::Send
            && !parked::is_due(&mut tx, &letter.id, now).await?
        {
            leave = Leave::Parked;
        }
        if leave == Leave::Send
            && let Some(wait) = self.wait_for_room(&mut tx, &letter.id, now).await?
        {
            leave = Leave::Limited(wait);
        }
        match (leave, source) {
            (Leave::Parked | Leave::Limited(_), _) => release(&mut tx, &letter.id, &self.holder).await?,
            (Leave::Sent | Leave::Forgotten, Source::Parking) => parked::remove(&mut tx, &letter.id).await?,
            (Leave::Elsewhere, Source::Parking) => parked::put_off(&mut tx, &letter.id, now).await?,
            _ => {}
        }
        tx.commit().await?;
        Ok(leave)
    }

    /// Notes whether the database was there.
    fn noted<T, E>(&self, outcome: Result<T, E>) -> Result<T, E> {
        let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
        *absence = match (&outcome, *absence) {
            (Err(_), _) => Absence::Lasts,
            (Ok(_), Absence::Lasts) => Absence::Ended(Instant::now()),
            (Ok(_), ended) => ended,
        };
        outcome
    }

    /// Leases of others that ended before this may be taken. None may when the database was just away: the mail may have been
    /// sent, and whoever sent it could not say so yet.
    fn ended_before(&self, now: i64) -> i64 {
        match *self.absence.lock().unwrap_or_else(PoisonError::into_inner) {
            Absence::Ended(when) if when.elapsed() >= HOLD_OFF => now,
            _ => 0,
        }
    }

    /// Takes the lease on a mail unless it was sent, is being sent, or its account is gone. The lease first: it waits for
    /// whoever is just recording the mail as sent, and the look comes after that.
    async fn lease(&self, tx: &mut Tx, id: &str, account: Option<Account>, now: i64) -> sqlx::Result<Leave> {
        let held = on!(&mut *tx, |tx| {
            sqlx::query(
                "INSERT INTO sending (id, holder, held_until) VALUES ($1, $2, $3) \
                 ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
                 WHERE sending.held_until < $4 OR sending.holder = excluded.holder",
            )
            .bind(id)
            .bind(&self.holder)
            .bind(now + LEASE)
            .bind(self.ended_before(now))
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        let account = account.map(|account| account.to_string()).unwrap_or_default();
        let (sent, forgotten): (bool, bool) = on!(&mut *tx, |tx| {
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1 FROM sent WHERE id = $1), \
                 EXISTS (SELECT 1 FROM forgotten WHERE account = $2)",
            )
            .bind(id)
            .bind(account)
            .fetch_one(&mut **tx)
            .await?
        });
        if held == 1 && (sent || forgotten) {
            release(tx, id, &self.holder).await?;
        }
        Ok(match (sent, forgotten, held) {
            (true, _, _) => Leave::Sent,
            (_, true, _) => Leave::Forgotten,
            (_, _, 1) => Leave::Send,
            _ => Leave::Elsewhere,
        })
    }

    /// How long until one more mail may leave, if none may now. A mail that is on its way, other than this one, counts as sent.
    async fn wait_for_room(&self, tx: &mut Tx, id: &str, now: i64) -> sqlx::Result<Option<Duration>> {
        let mut longest = None;
        for limit in self.limits.iter() {
            let since = now - limit.seconds;
            let (sent, oldest, under_way): (i64, Option<i64>, i64) = on!(&mut *tx, |tx| {
                sqlx::query_as(
                    "SELECT COUNT(*), MIN(sent_at), \
                     (SELECT COUNT(*) FROM sending WHERE held_until >= $2 AND id <> $3) \
                     FROM sent WHERE sent_at > $1",
                )
                .bind(since)
                .bind(now)
                .bind(id)
                .fetch_one(&mut **tx)
                .await?
            });
            if sent + under_way >= limit.most {
                // Whatever is on its way has an outcome in a moment.
                let wait = oldest.filter(|_| sent >= limit.most).map_or(1, |oldest| oldest - since);
                longest = longest.max(Some(Duration::from_secs(wait.max(1).unsigned_abs())));
            }
        }
        Ok(longest)
    }

    /// Records that mails, at least one, were taken by the server.
    pub(crate) async fn sent(&self, ids: &[String]) -> sqlx::Result<()> {
        self.noted(self.try_sent(ids).await)
    }

    async fn try_sent(&self, ids: &[String]) -> sqlx::Result<()> {
        // In one order, so that two replicas do not wait for each other crosswise.
        let mut ids: Vec<&String> = ids.iter().collect();
        ids.sort_unstable();
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            // The leases first: whoever wants one waits here, and then sees that the mail was sent.
            for delete in ["DELETE FROM sending WHERE id IN", "DELETE FROM parked WHERE id IN"] {
                let mut delete = QueryBuilder::new(delete);
                delete.push_tuples(&ids, |mut row, id| {
                    row.push_bind(*id);
                });
                delete.build().execute(&mut **tx).await?;
            }
            let mut insert = QueryBuilder::new("INSERT INTO sent (id, sent_at) ");
            insert.push_values(&ids, |mut row, id| {
                row.push_bind(*id).push_bind(now);
            });
            insert.push(" ON CONFLICT DO NOTHING").build().execute(&mut **tx).await?;
        });
        tx.commit().await
    }

    /// Gives the lease on a mail back.
    pub(crate) async fn release(&self, id: &str) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        release(&mut tx, id, &self.holder).await?;
        tx.commit().await
    }

    /// No more mails for this account, and none of those that wait.
    pub(crate) async fn forget(&self, account: Account) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query(
                "INSERT INTO forgotten (account, forgotten_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(account.to_string())
            .bind(now)
            .execute(&mut **tx)
            .await?;
            sqlx::query("DELETE FROM parked WHERE account = $1")
                .bind(account.to_string())
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
        tx.commit().await
    }

    /// Forgets ids of mails that the bus no longer holds: older than `seconds`.
    pub(crate) async fn prune(&self, seconds: i64) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query("DELETE FROM sent WHERE sent_at < $1")
                .bind(now - seconds)
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
        tx.commit().await
    }
}

/// Makes those who count mails against a limit do it one after another, until their transactions end.
async fn count_alone(tx: &mut Tx) -> sqlx::Result<()> {
    on!(&mut *tx, |tx| {
        sqlx::query("UPDATE allowance SET counted = counted + 1 WHERE name = 'mails'")
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

async fn release(tx: &mut Tx, id: &str, holder: &str) -> sqlx::Result<()> {
    on!(&mut *tx, |tx| {
        sqlx::query("DELETE FROM sending WHERE id = $1 AND holder = $2")
            .bind(id)
            .bind(holder)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}
