//! What the kernel sees: a message is accepted after its record is as durable as asked, and no byte of a QoS 2 exchange
//! leaves before the record on which it depends.
//!
//! The process under `strace` publishes to itself through a broker and tells of each message that was accepted. The
//! store's files are read as `docs/store-format.md` has them, not by the store.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use paquebot::mqtt::{QoS, Version};
use paquebot::{Durability, Fleet, Publish};

use crate::support::client::off_the_runtime;
use crate::support::fleet::{broker, drain, group, online, silent, soon, start};
use crate::support::strace::{Call, calls, strace, traced};

/// Where the traced process finds its broker and its store, and what it is to wait for.
const URL: &str = "PAQUEBOT_TEST_URL";
const STORE: &str = "PAQUEBOT_TEST_STORE";
const DURABILITY: &str = "PAQUEBOT_TEST_DURABILITY";

const MESSAGES: usize = 160;

/// So many callers publish at once, so that commits gather in groups.
const CALLERS: usize = 8;

#[tokio::test]
async fn nothing_is_accepted_and_no_packet_of_qos_2_leaves_before_its_record_is_synced() {
    let Some(calls) = trace(Durability::Disk).await else {
        return;
    };
    assert_recorded(&calls, true);
}

#[tokio::test]
async fn nothing_is_accepted_and_no_packet_of_qos_2_leaves_before_its_record_is_written() {
    let Some(calls) = trace(Durability::Process).await else {
        return;
    };
    assert_recorded(&calls, false);
    let synced =
        (0..MESSAGES).filter(|n| is_recorded(&calls, &message(*n), told(&calls, *n), true));
    assert!(synced.count() < MESSAGES, "the check finds no fault");
}

/// The calls of a process with this durability.
async fn trace(durability: Durability) -> Option<Vec<Call>> {
    let strace = off_the_runtime(strace).await?;
    let broker = broker().await;
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut process = traced(&strace, &trace, &std::env::current_exe().unwrap());
    process
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("synced::the_traced_process")
        .env(URL, crate::support::fleet::url(&broker))
        .env(STORE, folder.path().join("store"))
        .env(DURABILITY, durability.to_string())
        .stdin(Stdio::null());
    let output = off_the_runtime(move || process.output().unwrap()).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(calls(&std::fs::read_to_string(trace).unwrap()))
}

#[tokio::test]
#[ignore = "the tests of this file start it under strace"]
async fn the_traced_process() {
    let (Ok(url), Some(store)) = (std::env::var(URL), std::env::var_os(STORE)) else {
        return;
    };
    let durability = match std::env::var(DURABILITY).unwrap().as_str() {
        "disk" => Durability::Disk,
        "process" => Durability::Process,
        other => panic!("{other}"),
    };
    let fleet = Fleet::builder().workers(1).store(PathBuf::from(store));
    let fleet = fleet.start().unwrap();
    let builder = group(&fleet, &url, Version::V5).dialect(silent());
    let link = start(builder.durability(durability), "d1");
    online(&link).await;
    let subscribing = link.subscribe("in", QoS::ExactlyOnce);
    let mut inbox = soon("it subscribes", subscribing).await.unwrap();
    soon("it is subscribed", inbox.ready()).await.unwrap();
    let callers = (0..CALLERS).map(|caller| {
        let link = &link;
        async move {
            let mut receipts = Vec::new();
            for n in (caller..MESSAGES).step_by(CALLERS) {
                let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n / CALLERS % 2];
                let publish = Publish::new("in", message(n)).unwrap().with_qos(qos);
                let accepted = soon("it is accepted", link.publish(publish)).await;
                // One call of the kernel for each, unlike what print would do.
                let line = format!("accepted {n:05}\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
                receipts.push(accepted.unwrap());
            }
            for receipt in receipts {
                assert!(soon("it ends", receipt).await.is_delivered());
            }
        }
    });
    let receiving = async {
        for _ in 0..MESSAGES {
            drop(soon("one comes", inbox.next()).await.unwrap());
        }
    };
    futures_util::future::join(futures_util::future::join_all(callers), receiving).await;
    drain(&fleet).await;
}

fn message(n: usize) -> Vec<u8> {
    format!("message {n:05};").into_bytes()
}

/// When the process said that it was accepted.
fn told(calls: &[Call], n: usize) -> usize {
    let line = format!("accepted {n:05}\n");
    let told = calls.iter().find(|call| call.data == line.as_bytes());
    told.unwrap().began
}

/// Checks each message, and each packet that depends on a record.
#[track_caller]
fn assert_recorded(calls: &[Call], is_synced: bool) {
    for n in 0..MESSAGES {
        let is_recorded = is_recorded(calls, &message(n), told(calls, n), is_synced);
        assert!(is_recorded, "message {n} was accepted too early");
    }
    let records = records(calls);
    // An identifier may be used again: the second packet needs a second record.
    let mut left: HashMap<Written, usize> = HashMap::new();
    for sent in calls.iter().filter(|call| call.is_on_socket()) {
        for needed in packets(&sent.data).into_iter().flatten() {
            let count = left.entry(needed).or_default();
            let mut same = records.iter().filter(|(_, written)| *written == needed);
            let is_recorded = same
                .nth(*count)
                .is_some_and(|(call, _)| is_durable(calls, call, sent.began, is_synced));
            assert!(is_recorded, "a packet left before {needed:?} was recorded");
            *count += 1;
        }
    }
    // PUBLISH, PUBREL and PUBREC of each message at QoS 2.
    assert_eq!(left.values().sum::<usize>(), MESSAGES / 2 * 3, "{left:?}");
}

/// Whether the store's file had these bytes before this moment.
fn is_recorded(calls: &[Call], bytes: &[u8], before: usize, is_synced: bool) -> bool {
    let mut writes = calls.iter().filter(|call| is_of_store(call));
    writes.any(|call| {
        let has = call.data.windows(bytes.len()).any(|part| part == bytes);
        has && is_durable(calls, call, before, is_synced)
    })
}

/// Whether a write had returned before this moment, and a sync that began after it too.
fn is_durable(calls: &[Call], write: &Call, before: usize, is_synced: bool) -> bool {
    let is_written = |returned| returned < before && write.result == Some(write.data.len() as i64);
    let Some(written) = write.returned.filter(|returned| is_written(*returned)) else {
        return false;
    };
    !is_synced
        || calls.iter().any(|call| {
            call.is_sync()
                && call.target == write.target
                && call.began > written
                && call.returned.is_some_and(|returned| returned < before)
                && call.result == Some(0)
        })
}

fn is_of_store(call: &Call) -> bool {
    call.target.ends_with(".segment") && !call.is_sync()
}

/// A record that a packet depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Written {
    /// The phase of a message: 0 published, 1 released.
    Outbound {
        packet_id: u16,
        phase: u8,
    },
    Inbound {
        packet_id: u16,
    },
}

const fn outbound(packet_id: u16, phase: u8) -> Written {
    Written::Outbound { packet_id, phase }
}

/// All such records, and with which call each was written.
fn records(calls: &[Call]) -> Vec<(&Call, Written)> {
    let mut all = Vec::new();
    for call in calls.iter().filter(|call| is_of_store(call)) {
        let mut rest = &call.data[..];
        if rest.starts_with(b"paqueLOG") {
            rest = &rest[32..];
        }
        while let Some((head, body)) = rest.split_at_checked(12) {
            let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
            if length == 0 {
                break;
            }
            let (mut body, behind) = body.split_at(length);
            while !body.is_empty() {
                all.extend(record(&mut body).map(|written| (call, written)));
            }
            rest = behind;
        }
    }
    all
}

/// Takes a record from the beginning of a commit's.
fn record(bytes: &mut &[u8]) -> Option<Written> {
    let kind = take(bytes, 1)[0];
    take(bytes, 4);
    let id = number(bytes);
    let value = match kind & 0xF0 {
        0x00 => take(bytes, id as usize),
        0x10 => {
            let length = number(bytes);
            take(bytes, length as usize)
        }
        _ => return None,
    };
    match (kind, value) {
        (0x12, [high, low, phase]) => Some(outbound(u16::from_be_bytes([*high, *low]), *phase)),
        (0x13, _) => Some(Written::Inbound {
            packet_id: id.try_into().unwrap(),
        }),
        _ => None,
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    bytes.split_off(..count).unwrap()
}

/// Seven bits a byte, the lowest first: as MQTT has it, and the store too.
fn number(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for place in 0.. {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7F) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// What each packet of a write to a socket depends on.
fn packets(mut bytes: &[u8]) -> Vec<Option<Written>> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let first = take(&mut bytes, 1)[0];
        let length = number(&mut bytes);
        let body = take(&mut bytes, length as usize);
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        packets.push(match first {
            // A PUBLISH at QoS 2 has its identifier behind the topic.
            0x34 | 0x3C => Some(outbound(id(2 + usize::from(id(0))), 0)),
            // PUBREL.
            0x62 => Some(outbound(id(0), 1)),
            // PUBREC.
            0x50 => Some(Written::Inbound { packet_id: id(0) }),
            _ => None,
        });
    }
    packets
}
