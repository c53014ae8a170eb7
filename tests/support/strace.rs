//! A program under `strace`: which bytes it wrote where, and what had returned by then.
//!
//! The trace says more than a mock can: the calls are those that the kernel saw. Syncs are made slow, so that whoever
//! does not wait for one is seen not to.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::find_peer;

/// What is traced: all ways to write to a file or a socket, and to make a file durable.
const CALLS: &str = "trace=fdatasync,fsync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg";

/// Each sync takes so many microseconds more.
const SLOW_SYNCS: &str = "inject=fdatasync,fsync:delay_exit=3000";

/// Longest piece of data that is written down, in bytes.
const DATA_BYTES: usize = 1 << 20;

/// A call as it was traced. Points in time are places in the trace.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// What the descriptor is open on: a path, or `socket:[…]` and the like.
    pub(crate) target: String,
    /// The bytes that were written.
    pub(crate) data: Vec<u8>,
    pub(crate) began: usize,
    /// None if it never did.
    pub(crate) returned: Option<usize>,
    pub(crate) result: Option<i64>,
}

impl Call {
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fdatasync" | "fsync")
    }

    pub(crate) fn is_on_socket(&self) -> bool {
        self.target.starts_with("socket:") || self.target.starts_with("TCP:")
    }
}

/// The `strace` of this machine. None, with the reason on stderr, if there is none or it must not trace: the test is to
/// return.
///
/// # Panics
///
/// When it is not installed and `PAQUEBOT_REQUIRE_PEERS` is `1`.
pub(crate) fn strace() -> Option<PathBuf> {
    let strace = find_peer("strace")?;
    let tried = Command::new(&strace)
        .args(["-o", "/dev/null", "-e", SLOW_SYNCS, "true"])
        .output();
    let reason = match tried {
        Ok(output) if output.status.success() => return Some(strace),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let test = std::thread::current();
    let rule = "=".repeat(100);
    let text = format!(
        "{rule}\nNOT PROVEN HERE: {}\nThis system does not let strace trace a program (ptrace): {}\n\
         Run it where it may, as with docker run --cap-add SYS_PTRACE.\n{rule}\n",
        test.name().unwrap_or("a test"),
        reason.trim()
    );
    // Written past the capture of passing tests' output, which would hide it, and in one piece.
    io::stderr().write_all(text.as_bytes()).ok();
    None
}

/// The program in `command`, to be started under `strace`, which writes into `trace`.
pub(crate) fn traced(strace: &Path, trace: &Path, program: &Path) -> Command {
    let mut command = Command::new(strace);
    command
        .args(["-f", "-y", "-xx", "-s", &DATA_BYTES.to_string()])
        .args(["-e", CALLS, "-e", SLOW_SYNCS, "-o"])
        .arg(trace)
        .arg(program);
    command
}

/// The calls of a trace in the order in which they began.
///
/// # Panics
///
/// When a line of it is not understood: nothing may be passed over.
pub(crate) fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    // Of a thread, the call that has begun.
    let mut under_way = std::collections::HashMap::new();
    for (place, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            panic!("no thread in {line:?}");
        };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        let index = if rest.starts_with("<... ") {
            under_way.remove(thread)
        } else {
            let (name, arguments) = rest.split_once('(').unwrap_or((rest, ""));
            calls.push(Call {
                name: name.to_owned(),
                target: target(arguments),
                data: data(arguments),
                began: place,
                returned: None,
                result: None,
            });
            Some(calls.len() - 1)
        };
        let Some(index) = index else {
            panic!("nothing to be resumed: {line:?}");
        };
        if rest.contains("<unfinished ...>") {
            under_way.insert(thread, index);
            continue;
        }
        let Some((_, result)) = rest.rsplit_once(" = ") else {
            panic!("no result in {line:?}");
        };
        let call = &mut calls[index];
        call.returned = Some(place);
        call.result = result
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
    }
    calls
}

/// What the first argument is open on: `3<\x2f\x74>`.
fn target(arguments: &str) -> String {
    let inner = arguments.split_once('<').map_or("", |(_, rest)| rest);
    let inner = inner.split_once('>').map_or("", |(inner, _)| inner);
    String::from_utf8_lossy(&bytes(inner)).into_owned()
}

/// All quoted strings one after the other: one, or the pieces of a vector.
fn data(arguments: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for (place, piece) in arguments.split('"').enumerate() {
        if place % 2 == 1 {
            data.extend(bytes(piece));
        } else {
            assert!(!piece.starts_with("..."), "cut off: {arguments}");
        }
    }
    data
}

fn bytes(text: &str) -> Vec<u8> {
    let bytes = text.split("\\x").skip(1);
    let byte = |digits| match u8::from_str_radix(digits, 16) {
        Ok(byte) => byte,
        Err(error) => panic!("{digits:?}: {error}"),
    };
    bytes.map(byte).collect()
}
