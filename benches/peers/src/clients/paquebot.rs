//! paquebot through its public API, with one worker thread. What publishes runs on it, beside the link, as the
//! callers of the other clients run beside theirs.

mod calls;
mod links;
pub(crate) mod pipes;
mod publish;
mod receive;

use paquebot::dialect::Plain;
use paquebot::dialect::plain::Topics;
use paquebot::{Fleet, Group, GroupBuilder, Link};
use tokio::sync::oneshot;

use super::cannot;
use crate::Failure;
use crate::contestant::Endless;
use crate::links::{CONNECTS_MAX, address};
use crate::work::{Task, Work};

/// Publishes, receives or connects.
pub(crate) async fn run(work: &Work) -> Endless {
    match work.task {
        Task::Publish(task) => publish::run(work, task).await,
        Task::Receive { qos } => receive::run(work, qos).await,
        Task::Idle { links } => links::idle(work, links).await,
        Task::Turns { links, outstanding } => links::turns(work, links, outstanding).await,
        _ => Err(cannot(work)),
    }
}

/// Runs a caller on the thread of a link; gives what it fails with.
async fn beside<F, T>(link: &Link, caller: F) -> Endless
where
    F: FnOnce(Link) -> T + Send + 'static,
    T: Future<Output = Endless> + 'static,
{
    let (ended, end) = oneshot::channel();
    link.spawn(async move |link: Link| {
        let Err(failure) = caller(link).await;
        let _ = ended.send(failure.to_string());
    })?;
    Err(end.await?.into())
}

fn fleet() -> Result<Fleet, Failure> {
    let builder = Fleet::builder().workers(1).connects_max(CONNECTS_MAX);
    Ok(builder.start()?)
}

/// Settings that are not the defaults: no status messages, which would be counted as published ones.
fn settings(fleet: &Fleet) -> Result<GroupBuilder, Failure> {
    let topics = Topics {
        status: None,
        ..Topics::default()
    };
    let dialect = Plain::new(&topics).map_err(|(name, error)| format!("{name}: {error}"))?;
    Ok(fleet.group("peers").dialect(dialect))
}

/// A group whose links go to one of the peer's addresses.
fn group(
    fleet: &Fleet,
    work: &Work,
    index: usize,
    tune: impl FnOnce(GroupBuilder) -> GroupBuilder,
) -> Result<Group, Failure> {
    let address = address(work, index)?;
    let mut settings = settings(fleet)?;
    settings = match &work.ca_file {
        None => settings.endpoint(format!("mqtt://{address}")),
        Some(ca_file) => settings
            .endpoint(format!("mqtts://{address}"))
            .ca_file(ca_file),
    };
    Ok(tune(settings).build()?)
}
