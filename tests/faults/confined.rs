//! A process that may have so much memory and no more, offered more messages than that, with its server away: within
//! the bounds of its fleet it lives, and without them it does not.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{Durability, Fleet, Link, Overflow, Publish, QueueLimits};
use serde_json::{Value, json};

use crate::course::{Findings, group};
use crate::support::client::off_the_runtime;
use crate::support::fleet::start_in;

/// Bytes of a payload.
const PAYLOAD: usize = 1_000;
const LINKS: usize = 100;

/// What the process is to do.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) overflow: Overflow,
    pub(crate) durability: Durability,
    pub(crate) messages: u64,
    /// Bytes that the queues of its fleet may hold; `None`: no bound but those of its links, which add up to more
    /// than everything.
    pub(crate) bytes_max: Option<usize>,
}

/// What keeps a process within its memory.
#[derive(Debug)]
enum Confinement {
    /// Of version 1 or 2, made for this.
    Group { folder: PathBuf, version: u8 },
    /// `RLIMIT_DATA`: an allocation beyond it fails, and the process aborts.
    Data,
}

impl Confinement {
    /// The best that there is here.
    fn new(bytes: u64) -> Self {
        let name = format!(
            "paquebot-confined-{}-{}",
            std::process::id(),
            fastrand::u32(..)
        );
        let root = Path::new("/sys/fs/cgroup");
        for (version, parent, limit) in [
            (2, root.to_owned(), "memory.max"),
            (1, root.join("memory"), "memory.limit_in_bytes"),
        ] {
            let folder = parent.join(&name);
            // Where version 1 is mounted, the root is an ordinary folder.
            if !parent.join("cgroup.procs").exists() || fs::create_dir(&folder).is_err() {
                continue;
            }
            // In version 2 a group has the controller only if the one above hands it on.
            let _ = set(&parent.join("cgroup.subtree_control"), "+memory");
            if set(&folder.join(limit), &bytes.to_string()).is_ok() {
                // What is swapped out would not count.
                let _ = set(&folder.join("memory.swap.max"), "0");
                let _ = set(&folder.join("memory.swappiness"), "0");
                return Self::Group { folder, version };
            }
            let _ = fs::remove_dir(&folder);
        }
        Self::Data
    }

    fn name(&self) -> String {
        match self {
            Self::Group { version, .. } => format!("cgroup v{version}"),
            Self::Data => "RLIMIT_DATA".to_owned(),
        }
    }

    /// What runs a program within it.
    fn command(&self, bytes: u64) -> Command {
        let mut command = Command::new("sh");
        match self {
            Self::Group { folder, .. } => command
                .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
                .arg(folder),
            Self::Data => command
                .args(["-c", "ulimit -d \"$0\" && exec \"$@\""])
                .arg((bytes / 1024).to_string()),
        };
        command.stdin(Stdio::null());
        command
    }
}

/// Writes to a file that is there.
fn set(file: &Path, value: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(value.as_bytes())
}

impl Drop for Confinement {
    fn drop(&mut self) {
        if let Self::Group { folder, .. } = self {
            // The kernel lets go of a group a moment after its last process.
            for _ in 0..100 {
                if fs::remove_dir(&*folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Offer {
    fn folder(&self) -> Option<tempfile::TempDir> {
        (self.durability != Durability::Memory).then(|| tempfile::tempdir().unwrap())
    }

    /// For the process, as one word.
    fn to_word(&self, folder: Option<&Path>) -> String {
        let overflow = match self.overflow {
            Overflow::Wait => "wait",
            Overflow::Reject => "reject",
            Overflow::DropNewest => "drop_newest",
            Overflow::DropOldest => "drop_oldest",
        };
        json!({
            "overflow": overflow,
            "disk": self.durability == Durability::Disk,
            "messages": self.messages,
            "bytes_max": self.bytes_max,
            "folder": folder,
        })
        .to_string()
    }

    fn from_word(word: &str) -> (Self, Option<PathBuf>) {
        let value: Value = serde_json::from_str(word).unwrap();
        let number = |name: &str| value[name].as_u64();
        let offer = Self {
            overflow: match value["overflow"].as_str() {
                Some("wait") => Overflow::Wait,
                Some("reject") => Overflow::Reject,
                Some("drop_newest") => Overflow::DropNewest,
                _ => Overflow::DropOldest,
            },
            durability: match (value["disk"].as_bool(), value["folder"].as_str()) {
                (Some(true), _) => Durability::Disk,
                (_, Some(_)) => Durability::Process,
                _ => Durability::Memory,
            },
            messages: number("messages").unwrap(),
            bytes_max: number("bytes_max").map(|max| usize::try_from(max).unwrap()),
        };
        (offer, value["folder"].as_str().map(PathBuf::from))
    }
}

/// Runs the offer in a process of its own that may have so many bytes of memory; `command` is made the one that
/// calls [`offered`] with the word it is given.
pub(crate) async fn course(
    offer: Offer,
    memory_bytes: u64,
    command: impl FnOnce(&mut Command, String),
) -> Findings {
    let mut findings = Findings::new("confined", 0);
    let confinement = Confinement::new(memory_bytes);
    let folder = offer.folder();
    let mut process = confinement.command(memory_bytes);
    command(
        &mut process,
        offer.to_word(folder.as_ref().map(tempfile::TempDir::path)),
    );
    findings.figure("confined_by", confinement.name());
    findings.figure("memory_kib", memory_bytes / 1024);
    findings.figure("overflow", format!("{:?}", offer.overflow));
    findings.figure("durability", offer.durability.to_string());
    findings.figure("messages", offer.messages);
    findings.figure("bytes_max", offer.bytes_max);
    let output = off_the_runtime(move || process.output().unwrap()).await;
    drop(confinement);
    let said = String::from_utf8_lossy(&output.stdout);
    let told = said.lines().find_map(|line| line.split_once("offered "));
    findings.figure("ended", output.status.to_string());
    let Some(bytes_max) = offer.bytes_max else {
        // The measure of the others: what is not bounded has to be too much.
        findings.expect(told.is_none(), "without a bound it should have been killed");
        return findings;
    };
    let Some((_, told)) = told else {
        let errors = String::from_utf8_lossy(&output.stderr);
        findings.expect(false, format!("the process ended before: {said}{errors}"));
        return findings;
    };
    let told: Value = serde_json::from_str(told).unwrap();
    let number = |name: &str| told[name].as_u64().unwrap();
    findings.expect(
        told["balanced"] == json!(true) && number("held_at_the_end") == 0,
        format!("the equation: {told}"),
    );
    findings.expect(
        number("bytes") <= bytes_max as u64 && number("bytes") > bytes_max as u64 / 2,
        format!("what was held: {told}"),
    );
    findings.expect(number("peak_kib") <= memory_bytes / 1024, "its memory");
    let is_right = match offer.overflow {
        Overflow::Wait => number("waiting_links") == LINKS as u64,
        Overflow::Reject => number("accepted") + number("refused") == offer.messages,
        Overflow::DropNewest | Overflow::DropOldest => number("accepted") == offer.messages,
    };
    findings.expect(is_right, format!("what became of the messages: {told}"));
    findings.figure("told", told);
    findings
}

/// The process: offers the messages to a fleet whose server is away, says what came of it, and stops.
pub(crate) async fn offered(word: &str) {
    let (offer, folder) = Offer::from_word(word);
    let builder = Fleet::builder().workers(2).queue_limits(QueueLimits {
        messages_max: None,
        bytes_max: offer.bytes_max,
    });
    let builder = match folder {
        Some(folder) => builder.store(folder),
        None => builder,
    };
    let fleet = builder.start().unwrap();
    // Nobody listens there.
    let group = group(&fleet, 1, Version::V5)
        .backoff(paquebot::BackoffConfig::default())
        .overflow(offer.overflow)
        .durability(offer.durability)
        .queue_messages_max(usize::try_from(offer.messages).unwrap())
        .build()
        .unwrap();
    let links: Vec<Link> = (0..LINKS)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    let refused = if offer.overflow == Overflow::Wait {
        offer_until_all_wait(&fleet, &links, &offer).await;
        0
    } else {
        let mut refused = 0_u64;
        for n in 0..offer.messages {
            let link = &links[usize::try_from(n).unwrap() % LINKS];
            refused += u64::from(link.publish_detached(message()).await.is_err());
        }
        refused
    };
    let held = fleet.queue_statistics();
    let totals = fleet.drain(Duration::ZERO).await;
    let line = json!({
        "accepted": totals.accepted,
        "refused": refused,
        "messages": held.map(|held| held.messages),
        "bytes": held.map(|held| held.bytes),
        "waiting_links": held.map(|held| held.waiting_links),
        "held_at_the_end": fleet.queue_statistics().map(|held| held.messages + held.bytes),
        "balanced": totals.is_balanced() && totals.held == 0,
        "peak_kib": peak_kib(),
    });
    println!("offered {line}");
}

fn message() -> Publish {
    let payload = vec![b'x'; PAYLOAD];
    let message = Publish::new("confined", payload).unwrap();
    message.with_qos(QoS::AtLeastOnce)
}

/// A caller of each link publishes its part, or waits.
async fn offer_until_all_wait(fleet: &Fleet, links: &[Link], offer: &Offer) {
    let left = Arc::new(AtomicU64::new(offer.messages));
    for link in links {
        let (link, left) = (link.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            let take_one = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one)
                .is_ok()
                && link.publish_detached(message()).await.is_ok()
            {
                // None of the links is to fill the fleet alone: it would wait for its own room.
                tokio::task::yield_now().await;
            }
        });
    }
    let all_wait = || {
        let waiting = fleet.queue_statistics().map(|held| held.waiting_links);
        waiting == Some(links.len()) || left.load(Ordering::Relaxed) == 0
    };
    let began = Instant::now();
    while !all_wait() && began.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The most memory that this process was resident with.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the process in the test below is to do.
    const OFFER: &str = "PAQUEBOT_TEST_OFFER";

    #[tokio::test]
    async fn a_process_with_little_memory_lives_behind_the_bounds_of_its_fleet_and_not_without() {
        if !cfg!(target_os = "linux") {
            eprintln!("skipped: only Linux holds a process to its memory");
            return;
        }
        let run = |overflow, durability, bytes_max| {
            let offer = Offer {
                overflow,
                durability,
                messages: 100_000,
                bytes_max,
            };
            course(offer, 64 * 1024 * 1024, |command, word| {
                command
                    .arg(std::env::current_exe().unwrap())
                    .args(["--exact", "--ignored", "--nocapture"])
                    .arg("confined::tests::the_process_with_little_memory")
                    .env(OFFER, word);
            })
        };
        let bytes_max = Some(8 * 1024 * 1024);
        run(Overflow::Reject, Durability::Memory, None)
            .await
            .assert_good();
        for (overflow, durability) in [
            (Overflow::Wait, Durability::Memory),
            (Overflow::Reject, Durability::Process),
            (Overflow::DropNewest, Durability::Memory),
            (Overflow::DropOldest, Durability::Memory),
        ] {
            run(overflow, durability, bytes_max).await.assert_good();
        }
    }

    #[tokio::test]
    #[ignore = "a_process_with_little_memory_lives_behind_the_bounds_of_its_fleet_and_not_without starts it"]
    async fn the_process_with_little_memory() {
        if let Ok(word) = std::env::var(OFFER) {
            offered(&word).await;
        }
    }
}
