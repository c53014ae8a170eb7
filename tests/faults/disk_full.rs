//! A durable queue on a file system of four mebibytes: what does not fit is refused with its reason, what was accepted
//! is delivered, and space that comes back is used.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{Durability, Fleet, Publish, Receipt, SendError};
use paquebot_emulator::{Admission, Ending, Proxy};

use crate::course::{group, wrong_end};
use crate::mosquitto;
use crate::support::client::off_the_runtime;
use crate::support::fleet::{LIMIT, drain, online, soon, start, until};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Persistence;

/// Where the process on the small file system finds its server and that file system.
const PORT: &str = "PAQUEBOT_TEST_PORT";
const STORE: &str = "PAQUEBOT_TEST_STORE";

/// Bytes of a message beside its number.
const PADDING: usize = 4_000;

#[tokio::test]
async fn on_a_full_disk_nothing_accepted_is_lost_and_publishing_goes_on_when_there_is_space() {
    let Some(server) = mosquitto(Persistence::Off).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mounted = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(format!(
                "mount -t tmpfs -o size=4m tmpfs \"$0\" && {script}"
            ))
            .arg(folder.path())
            .stdin(Stdio::null());
        command
    };
    if !mounted("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!(
            "skipped: a small file system needs root, unshare and a writable mount namespace"
        );
        return;
    }
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let mut process = mounted("exec \"$@\"");
    process
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("disk_full::the_process_on_the_small_file_system")
        .env(PORT, server.plain_port().to_string())
        .env(STORE, folder.path());
    let output = off_the_runtime(move || process.output().unwrap()).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let counts = said
        .lines()
        .find_map(|line| line.split_once("accepted ")?.1.split_once(' '));
    let (at_least_once, exactly_once) = counts.unwrap();
    let mut sent = Sent::default();
    for (qos, count) in [(1, at_least_once), (2, exactly_once)] {
        for _ in 0..count.parse().unwrap() {
            sent.next(&format!("course/full/{qos}"), qos);
        }
    }
    let verdicts = judge.verdicts(&sent, Duration::from_secs(10)).await;
    crate::support::judge::assert_promises(&verdicts);
    assert!(verdicts[1].sent > 100, "{verdicts:?}");
}

#[tokio::test]
#[ignore = "on_a_full_disk_nothing_accepted_is_lost_and_publishing_goes_on_when_there_is_space starts it"]
async fn the_process_on_the_small_file_system() {
    let (Ok(port), Some(store)) = (std::env::var(PORT), std::env::var_os(STORE)) else {
        return;
    };
    let server = ([127, 0, 0, 1], port.parse().unwrap()).into();
    let proxy = Proxy::start(server, 1).await.unwrap();
    let fleet = Fleet::builder()
        .workers(1)
        .store(PathBuf::from(store).join("queues"))
        .start()
        .unwrap();
    let builder = group(&fleet, proxy.port(), Version::V5).durability(Durability::Disk);
    let link = start(builder, "full");
    online(&link).await;
    proxy.admit(Admission::Refuse);
    proxy.cut(Ending::Rst);
    let mut counts = [0_u64; 2];
    let mut receipts: Vec<(QoS, Receipt)> = Vec::new();
    let mut publish = async |n: usize, receipts: &mut Vec<(QoS, Receipt)>| {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2];
        let topic = format!("course/full/{}", qos as u8);
        let payload = format!("{} {}", counts[n % 2], "x".repeat(PADDING));
        let message = Publish::new(topic, payload).unwrap().with_qos(qos);
        let receipt = soon("it is taken or refused", link.publish(message)).await?;
        counts[n % 2] += 1;
        receipts.push((qos, receipt));
        Ok::<(), SendError>(())
    };
    // Each refusal comes at once, and none of them changes anything.
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    for n in 0.. {
        let since = Instant::now();
        match publish(n, &mut receipts).await {
            Ok(()) => {}
            Err(SendError::Storage { .. }) => {
                refused += 1;
                slowest = slowest.max(since.elapsed());
            }
            Err(error) => panic!("{error}"),
        }
        if refused == 20 {
            break;
        }
    }
    println!("the slowest refusal took {slowest:?}");
    let held = fleet.totals();
    assert!(held.is_balanced(), "{held:?}");
    // Acknowledgements are recorded on the full disk, and what they free is used again.
    proxy.heal();
    for (qos, receipt) in std::mem::take(&mut receipts) {
        let outcome = soon("it ended", receipt).await;
        assert!(!wrong_end(qos, &outcome), "{outcome:?}");
    }
    let since = Instant::now();
    for n in 0..2 {
        while publish(n, &mut receipts).await.is_err() {
            assert!(since.elapsed() < LIMIT, "no space comes back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    until("all is delivered", || fleet.totals().held == 0).await;
    drain(&fleet).await;
    println!("accepted {} {}", counts[0], counts[1]);
}
