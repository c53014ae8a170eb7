//! `paquebot queue`: looks into the durable queues of a store that no process has open, and removes those that no device
//! goes on with.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use paquebot::QueueEntry;
use paquebot::mqtt::{Packet, PacketId, Publish, QoS, Version};
use paquebot::store::{
    InUse, QueueReport, SegmentReport, SegmentState, Space, StoreError, StoreReader,
};
use serde_json::{Value, json};

use super::CommandError;
use super::packet::packet_json;

mod names;
mod removal;

use names::{Devices, no_such_queue};

/// Look into the durable queues of a store that no process has open
///
/// A store is the directory that a fleet file names in [outbox]. Only `rm` changes anything in it.
#[derive(Debug, clap::Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// Lists the queues that hold anything
    ///
    /// A queue belongs to a device by name. With -f those that no device of that fleet file has are marked: nobody goes on
    /// with them, and `paquebot queue rm` removes them.
    Ls(ListArgs),
    /// Reads every record; exit status 1 if one is damaged or a file is foreign
    Verify(LookArgs),
    /// Prints every entry as one JSON object a line
    ///
    /// Each has "queue" and "kind". What ends in _ms is milliseconds since 1970-01-01 UTC.
    ///
    /// message: accepted and not ended. "publish" is the PUBLISH as `paquebot packet` knows it, its payload in
    /// hexadecimal; its packet_id is a placeholder, for the session chooses one when it sends.
    ///
    /// exchange: an outbound QoS 2 message under way, and whether it was released (PUBREL).
    ///
    /// received: the packet identifier of an inbound QoS 2 message.
    ///
    /// command: a command that was started, and whether it was answered.
    ///
    /// unreadable, unknown: an entry that this program does not understand.
    ///
    /// Messages as packets, in hexadecimal: paquebot queue export DIRECTORY |
    /// jq -c 'select(.kind == "message").publish' | paquebot packet encode --version 5
    Export {
        #[command(flatten)]
        store: StoreArgs,
        /// Only this queue: a group and a device, such as lab/d1
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
    },
    /// Removes a queue with all that it holds; what it holds is lost
    ///
    /// No process may have the store open. Without --yes it says what would be lost, and changes nothing.
    Rm(RemoveArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    look: LookArgs,
    /// Mark the queues that no device of this fleet file has
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Override one value of that file, as for `paquebot run`
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "file")]
    sets: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The directory of the store
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// The queue: a group and a device, such as lab/d1
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Remove it indeed
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// The directory of the store
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Read although a process has the store open: what is read may be old
    #[arg(long)]
    in_use: bool,
}

#[derive(Debug, clap::Args)]
struct LookArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl StoreArgs {
    fn open(&self) -> Result<StoreReader, CommandError> {
        let in_use = if self.in_use {
            InUse::Read
        } else {
            InUse::Refuse
        };
        StoreReader::open(&self.directory, in_use).map_err(|error| match error {
            StoreError::Locked { .. } => {
                CommandError::Usage(format!("{error}; or look at it as it is with --in-use"))
            }
            error => refusal(error),
        })
    }
}

/// Why a store is not opened: nothing was done with it.
fn refusal(error: StoreError) -> CommandError {
    CommandError::Usage(match error {
        StoreError::NoStore { directory } => format!("no store here: {}", directory.display()),
        error => error.to_string(),
    })
}

/// Runs `paquebot queue`.
///
/// # Errors
/// The store cannot be read, or writing to `out` failed.
pub(crate) fn run(args: &QueueArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    match &args.command {
        QueueCommand::Ls(args) => list(args, out),
        QueueCommand::Verify(look) => verify(look, out),
        QueueCommand::Export { store, queue } => export(store, queue.as_deref(), out),
        QueueCommand::Rm(args) => removal::remove(args, out),
    }
}

fn count(queue: &QueueReport, space: Space) -> u64 {
    let place = Space::ALL.iter().position(|candidate| *candidate == space);
    place.map_or(0, |place| queue.entries[place])
}

fn list(args: &ListArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let devices = match &args.file {
        Some(file) => Some(Devices::read(file.clone(), args.sets.clone())?),
        None => None,
    };
    let args = &args.look;
    let queues = args.store.open()?.queues();
    let mut left_behind = 0;
    if !args.json {
        writeln!(
            out,
            "{:>10} {:>12} {:>9} {:>9} {:>9}  queue",
            "messages", "bytes", "in flight", "received", "commands"
        )?;
    }
    for queue in &queues {
        let [messages, exchanges, received, commands] = [
            Space::Message,
            Space::Outbound,
            Space::Inbound,
            Space::Command,
        ]
        .map(|space| count(queue, space));
        let has_device = devices.as_ref().map(|devices| devices.have(&queue.name));
        left_behind += u64::from(has_device == Some(false));
        if args.json {
            let mut line = json!({
                "queue": queue.name,
                "messages": messages,
                "bytes": queue.bytes,
                "in_flight": exchanges,
                "received": received,
                "commands": commands,
            });
            if let Some(has_device) = has_device {
                line["has_device"] = has_device.into();
            }
            writeln!(out, "{line}")?;
        } else {
            let bytes = queue.bytes;
            let mark = if has_device == Some(false) {
                "  (no device has it)"
            } else {
                ""
            };
            writeln!(
                out,
                "{messages:>10} {bytes:>12} {exchanges:>9} {received:>9} {commands:>9}  {}{mark}",
                queue.name
            )?;
        }
    }
    if left_behind > 0 && !args.json {
        let them = counted(left_behind, "queue");
        writeln!(
            out,
            "{them} without a device: what is held there is sent by nobody; `paquebot queue rm` removes one"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &LookArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    let store = args.store.open()?;
    let mut is_sound = true;
    for segment in store.segments() {
        is_sound &= segment.is_sound();
        if args.json {
            writeln!(out, "{}", segment_json(segment))?;
        } else {
            writeln!(out, "{}", segment_text(segment))?;
        }
    }
    let set_aside = store
        .set_aside()
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    for file in set_aside {
        if args.json {
            writeln!(out, "{}", json!({ "file": file, "set_aside": true }))?;
        } else {
            writeln!(
                out,
                "{file}: set aside earlier; delete it when nobody needs it"
            )?;
        }
    }
    Ok(if is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn state_name(state: SegmentState) -> String {
    match state {
        SegmentState::Sound => "sound".to_owned(),
        SegmentState::HeaderDamaged => "damaged at its head".to_owned(),
        SegmentState::Version(version) => {
            format!("of version {version}, which this program does not know")
        }
        SegmentState::Foreign => "not of this store".to_owned(),
    }
}

fn segment_json(segment: &SegmentReport) -> Value {
    json!({
        "file": segment.file,
        "bytes": segment.bytes,
        "state": state_name(segment.state),
        "sound": segment.is_sound(),
        "commits": segment.commits,
        "damaged": segment.damaged,
        "damaged_bytes": segment.damaged_bytes,
        "torn_bytes": segment.torn_bytes,
    })
}

fn segment_text(segment: &SegmentReport) -> String {
    let mut text = format!(
        "{}: {}, {}, {}",
        segment.file,
        state_name(segment.state),
        counted(segment.bytes, "byte"),
        counted(segment.commits, "commit")
    );
    if segment.damaged > 0 {
        text += &format!(
            ", {} of {}",
            counted(segment.damaged, "damaged place"),
            counted(segment.damaged_bytes, "byte")
        );
    }
    if segment.torn_bytes > 0 {
        text += &format!(
            ", an unfinished write of {} at its end",
            counted(segment.torn_bytes, "byte")
        );
    }
    text
}

fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

fn export(
    args: &StoreArgs,
    only: Option<&str>,
    out: &mut dyn Write,
) -> Result<ExitCode, CommandError> {
    let store = args.open()?;
    let queues = store.queues();
    if let Some(name) = only
        && !queues.iter().any(|queue| queue.name == name)
    {
        // The log forgets the names of queues that are empty, so an empty one is like one that never was.
        return Err(no_such_queue(name, &queues));
    }
    for queue in queues {
        let name = queue.name;
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let Some(entries) = store.entries(&name) else {
            continue;
        };
        for entry in entries {
            let entry = entry.map_err(|error| CommandError::Failed(error.to_string()))?;
            let key = entry.key;
            let line = match QueueEntry::read(entry) {
                Some(entry) => entry_json(&name, &entry),
                None => json!({
                    "queue": name,
                    "kind": "unreadable",
                    "space": key.space as u8,
                    "id": key.id,
                }),
            };
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn entry_json(queue: &str, entry: &QueueEntry) -> Value {
    match entry {
        QueueEntry::Message {
            id,
            message,
            accepted_at,
            expires_at,
        } => {
            let publish = Packet::Publish(Publish {
                dup: false,
                qos: message.qos,
                retain: message.retain,
                topic: Some(message.topic.clone()),
                // As a PUBLISH has to have one; the session chooses it.
                packet_id: PacketId::new(1).filter(|_| message.qos != QoS::AtMostOnce),
                payload: message.payload.clone(),
                properties: message.properties.clone(),
            });
            json!({
                "queue": queue,
                "kind": "message",
                "id": id,
                "accepted_ms": unix_ms(*accepted_at),
                "expires_ms": expires_at.map(unix_ms),
                "publish": packet_json(&publish, Version::V5),
            })
        }
        QueueEntry::Exchange {
            id,
            packet_id,
            is_released,
        } => json!({
            "queue": queue,
            "kind": "exchange",
            "id": id,
            "packet_id": packet_id.map(|id| id.value()),
            "released": is_released,
        }),
        QueueEntry::Received { packet_id } => json!({
            "queue": queue,
            "kind": "received",
            "packet_id": packet_id.value(),
        }),
        QueueEntry::Command {
            id,
            command,
            started_at,
            is_answered,
        } => json!({
            "queue": queue,
            "kind": "command",
            "id": id,
            "device": command.device.as_str(),
            "name": &*command.name,
            "request": &*command.reply_to.request,
            "started_ms": unix_ms(*started_at),
            "answered": is_answered,
        }),
        _ => json!({ "queue": queue, "kind": "unknown" }),
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_thing_is_no_plural() {
        let texts = [0, 1, 2].map(|count| counted(count, "damaged place"));
        assert_eq!(
            texts,
            ["0 damaged places", "1 damaged place", "2 damaged places"]
        );
    }
}
