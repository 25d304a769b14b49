//! One run: alerts are asked for while everything goes wrong, then everything is well, and everything arrives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::fault::Fault;
use crate::load::put_in;
use crate::plan::{Bound, Plan};
use crate::verdict::{dead_letters_are_right, mails_are_right, missing};
use crate::world::World;

/// How long further mails are waited for before the next thing goes wrong: there may be none before.
const STALL: Duration = Duration::from_secs(15);

pub(crate) async fn run(mut plan: Plan, world: World) {
    let (began, world) = (Instant::now(), Arc::new(world));
    let folder = Folder(world.folder.clone());
    let faults = plan.faults(&world.targets(), world.letters_wait);
    let (people, bound) = (&plan.people, plan.bound);
    let everything = async {
        tokio::join!(
            put_in(&people.all, &world.entrance, bound),
            everything_goes_wrong(&world, faults, people.expected.len(), bound)
        );
        everything_arrives(&world, &plan).await;
    };
    tokio::select! {
        () = everything => {}
        () = world.supervised() => {}
    }
    for service in &world.services {
        service.stopped().await;
    }
    let copies = mails_are_right(&people.expected, &world.mail_server.taken(), &world.ledger);
    for topic in ["to-alert-system.dead", "user-forgotten.dead"] {
        assert!(world.bus.read_all(topic).await.is_empty(), "something is in {topic}");
    }
    let dead = world.bus.read_all("to-notifier.dead").await;
    let dead = dead_letters_are_right(&people.undeliverable, &dead, &world.ledger);
    world.is_written_down(people.expected.len()).await;
    eprintln!(
        "{}: {} alerts mailed, {} undeliverable; {:?}; copies {copies:?}, {dead} dead; {} s",
        world.name,
        people.expected.len(),
        people.undeliverable.len(),
        world.ledger.counts(),
        began.elapsed().as_secs()
    );
    folder.removed();
}

/// What a run leaves, for whoever looks for the reason when it fails.
struct Folder(PathBuf);

impl Folder {
    fn removed(self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the services' logs are in {}", self.0.display());
        }
    }
}

/// One thing after another goes wrong: the early ones at once, the late ones spread over the mails. None waits for the
/// end of the one before.
async fn everything_goes_wrong(
    world: &Arc<World>,
    [early, late]: [Vec<Fault>; 2],
    mails: usize,
    bound: Bound,
) {
    let mut under_way = JoinSet::new();
    for fault in early {
        tokio::time::sleep(fault.pause).await;
        under_way.spawn(world.clone().suffers(fault));
    }
    if world.letters_wait {
        bound
            .until_nothing(async || (world.mail_server.count() == 0).then(|| "the first mail".to_owned()))
            .await;
    }
    let count = late.len();
    for (number, fault) in late.into_iter().enumerate() {
        mailed(world, mails * number / count).await;
        tokio::time::sleep(fault.pause).await;
        under_way.spawn(world.clone().suffers(fault));
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

/// Waits until so many mails have been taken, or none comes for some time.
async fn mailed(world: &World, share: usize) {
    let stalls = Instant::now() + STALL;
    while world.mail_server.count() < share && Instant::now() < stalls {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every alert has been mailed and nothing is on its way any more.
async fn everything_arrives(world: &World, plan: &Plan) {
    let expected = &plan.people.expected;
    plan.bound
        .until_nothing(async || {
            let count = world.mail_server.count();
            // To look into the mails takes time.
            if count < expected.len() && !plan.bound.is_over() {
                return Some(format!("{} of {} mails", expected.len() - count, expected.len()));
            }
            let missing = missing(expected, &world.mail_server.taken());
            let some = &missing[..missing.len().min(20)];
            (!missing.is_empty()).then(|| format!("{} alerts: {some:?}", missing.len()))
        })
        .await;
    plan.bound.until_nothing(async || world.unfinished().await).await;
}
