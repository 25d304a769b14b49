//! All SQL of notifier_system.

use common::db::Db;
use common::on;
use common::types::Account;

/// How long a mail on its way is left alone, in seconds. Longer than sending one can take.
const LEASE: i64 = 120;

/// What is to be done with a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Send it; nobody else does.
    Send,
    /// It was sent already.
    Sent,
    /// Its account was deleted.
    Forgotten,
    /// Somebody else is sending it.
    Elsewhere,
}

#[derive(Clone)]
pub(crate) struct Store {
    db: Db,
    /// Names this replica: after a restart it takes up its own leases.
    holder: String,
}

impl Store {
    pub(crate) fn new(db: Db, holder: &str) -> Store {
        Store { db, holder: holder.to_owned() }
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.db.ping().await
    }

    /// Takes the lease on a mail, unless it needs no sending.
    pub(crate) async fn begin(&self, id: &str, account: Option<Account>) -> sqlx::Result<Leave> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        let account = account.map(|account| account.to_string()).unwrap_or_default();
        // The lease first: it waits for whoever is just recording the mail as sent, and the look comes after that.
        let leave = on!(&mut tx, |tx| {
            let held = sqlx::query(
                "INSERT INTO sending (id, holder, held_until) VALUES ($1, $2, $3) \
                 ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
                 WHERE sending.held_until < $4 OR sending.holder = excluded.holder",
            )
            .bind(id)
            .bind(&self.holder)
            .bind(now + LEASE)
            .bind(now)
            .execute(&mut **tx)
            .await?
            .rows_affected();
            let (sent, forgotten): (bool, bool) = sqlx::query_as(
                "SELECT EXISTS (SELECT 1 FROM sent WHERE id = $1), \
                 EXISTS (SELECT 1 FROM forgotten WHERE account = $2)",
            )
            .bind(id)
            .bind(account)
            .fetch_one(&mut **tx)
            .await?;
            if held == 1 && (sent || forgotten) {
                sqlx::query("DELETE FROM sending WHERE id = $1").bind(id).execute(&mut **tx).await?;
            }
            match (sent, forgotten, held) {
                (true, _, _) => Leave::Sent,
                (_, true, _) => Leave::Forgotten,
                (_, _, 1) => Leave::Send,
                _ => Leave::Elsewhere,
            }
        });
        tx.commit().await?;
        Ok(leave)
    }

    /// Records that a mail was taken by the server.
    pub(crate) async fn sent(&self, id: &str) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query("INSERT INTO sent (id, sent_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(id)
                .bind(now)
                .execute(&mut **tx)
                .await?;
            sqlx::query("DELETE FROM sending WHERE id = $1")
                .bind(id)
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
        tx.commit().await
    }

    /// Gives the lease on a mail back.
    pub(crate) async fn release(&self, id: &str) -> sqlx::Result<()> {
        on!(&self.db, |pool| {
            sqlx::query("DELETE FROM sending WHERE id = $1 AND holder = $2")
                .bind(id)
                .bind(&self.holder)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// No more mails for this account.
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
