//! `paquebot queue rm`: forgets a queue that no device goes on with.

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;

use paquebot::store::{
    Durability, InUse, LogStore, Operation, Store as _, StoreError, StoreOptions, StoreReader,
};

use super::super::CommandError;
use super::names::no_such_queue;
use super::{RemoveArgs, counted, refusal};

/// Runs the command.
///
/// # Errors
/// A process has the store open, there is no such queue, it was not confirmed, or the store failed.
pub(super) fn remove(args: &RemoveArgs, out: &mut dyn Write) -> Result<ExitCode, CommandError> {
    // Looked at first: only opening it to write would already tidy it up.
    let reader = StoreReader::open(&args.directory, InUse::Refuse).map_err(refusal)?;
    let queues = reader.queues();
    drop(reader);
    let Some(queue) = queues.iter().find(|queue| queue.name == args.queue) else {
        return Err(no_such_queue(&args.queue, &queues));
    };
    let [messages, ..] = queue.entries;
    let others = queue.entries.iter().sum::<u64>() - messages;
    let mut held = counted(messages, "message");
    if others > 0 {
        // Phases of messages, identifiers received, commands.
        held += &format!(" and {}", counted(others, "other record"));
    }
    if !args.yes {
        return Err(CommandError::Usage(format!(
            "queue {:?} holds {held}, which would be lost; nothing was changed: add --yes to remove them",
            queue.name
        )));
    }
    let options = StoreOptions::default();
    let store = LogStore::open(&args.directory, options).map_err(refusal)?;
    let failed = |error: StoreError| CommandError::Failed(error.to_string());
    let (id, entries) = store.open_queue(&args.queue).map_err(failed)?;
    let removals = entries.iter().map(|entry| Operation::Remove {
        queue: id,
        key: entry.key,
    });
    let (tell, told) = sync_channel(1);
    let done = move |result| drop(tell.send(result));
    store.commit(Durability::Disk, removals.collect(), Box::new(done));
    let result = told.recv().unwrap_or(Err(StoreError::Closed));
    store.close();
    result.map_err(failed)?;
    writeln!(out, "removed {held} of queue {:?}", args.queue)?;
    Ok(ExitCode::SUCCESS)
}
