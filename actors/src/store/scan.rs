//! Finds what is whole in a segment, whatever is in the file.

use std::ops::Range;

use super::format::{self, HEADER_BYTES, Records};

/// Something in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The records of a commit, by their place in the file.
    Commit(Range<usize>),
    /// Bytes between commits that are none.
    Damage(Range<usize>),
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The end of the last commit.
    pub(super) at: usize,
    /// Bytes behind it, up to the last that is not zero: what is left of an unfinished write.
    pub(super) torn: usize,
    /// Commits that were found.
    pub(super) commits: usize,
}

/// Goes through the commits of the segment of this number. After damage it goes on with the next whole commit.
pub(super) fn scan(number: u32, bytes: &[u8], mut found: impl FnMut(Found)) -> End {
    let mut end = End {
        at: HEADER_BYTES.min(bytes.len()),
        ..End::default()
    };
    loop {
        if let Some(body) = commit(number, bytes, end.at) {
            end.at = body.end;
            end.commits += 1;
            found(Found::Commit(body));
            continue;
        }
        let rest = &bytes[end.at..];
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else {
            return end;
        };
        let next = (end.at + 1..=end.at + last).find(|at| commit(number, bytes, *at).is_some());
        let Some(next) = next else {
            end.torn = last + 1;
            return end;
        };
        found(Found::Damage(end.at..next));
        end.at = next;
    }
}

/// The records of the commit at this place, if all of it is there and can be understood.
fn commit(number: u32, bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let body = format::frame(number, bytes, at)?;
    let is_sound = Records::new(bytes, body.clone()).are_sound();
    is_sound.then_some(body)
}
