//! The names of queues: who has one still, and which was probably meant.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;

use paquebot::fleet_file::FleetPlan;
use paquebot::store::QueueReport;
use paquebot::template::nearest;

use super::super::CommandError;
use super::super::check::FleetFileArgs;

/// At most so many names are given for one that is not there.
const SUGGESTIONS_MAX: usize = 3;

/// The queues that the devices of a fleet file have.
pub(super) struct Devices(HashSet<String>);

impl Devices {
    /// Reads the fleet file.
    ///
    /// # Errors
    /// It cannot be read, or something is wrong in it, which is told on standard error.
    pub(super) fn read(file: PathBuf, sets: Vec<String>) -> Result<Self, CommandError> {
        let file = FleetFileArgs::new(file, sets);
        match file.load_or_explain(&mut io::stderr().lock())? {
            Some(plan) => Ok(Self::of(&plan)),
            None => Err(CommandError::Usage(
                "without that file nobody knows which devices there are".to_owned(),
            )),
        }
    }

    fn of(plan: &FleetPlan) -> Self {
        let groups = plan.groups.iter();
        let names = groups.flat_map(|group| {
            let devices = group.devices();
            devices.map(|device| format!("{}/{}", group.name, device.id))
        });
        Self(names.collect())
    }

    /// Whether some device goes on with this queue.
    pub(super) fn have(&self, queue: &str) -> bool {
        self.0.contains(queue)
    }
}

/// Says that there is no queue of this name, and which was probably meant.
pub(super) fn no_such_queue(name: &str, queues: &[QueueReport]) -> CommandError {
    let names = || queues.iter().map(|queue| queue.name.as_str());
    // A device without its group, or a group without a device.
    let is_part = |whole: &&str| {
        !name.is_empty()
            && whole
                .split_once('/')
                .is_some_and(|(a, b)| a == name || b == name)
    };
    let mut near: Vec<&str> = names().filter(is_part).take(SUGGESTIONS_MAX).collect();
    if near.is_empty() {
        near.extend(nearest(name, names()));
    }
    let hint = if near.is_empty() {
        "`paquebot queue ls` lists those that hold anything".to_owned()
    } else {
        let quoted: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
        format!("did you mean {}?", quoted.join(" or "))
    };
    CommandError::Usage(format!("queue {name:?} holds nothing; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, queues: &[&str]) -> String {
        let report = |name: &&str| {
            let mut report = QueueReport::default();
            (*name).clone_into(&mut report.name);
            report
        };
        let queues: Vec<QueueReport> = queues.iter().map(report).collect();
        no_such_queue(name, &queues).to_string()
    }

    #[test]
    fn a_name_that_is_not_there_brings_those_near_it() {
        let queues = [
            "lab/boiler",
            "lab/pump",
            "roof/pump",
            "roof/fan",
            "roof/sun",
            "roof/sky",
        ];
        assert!(said("lab/bioler", &queues).ends_with("did you mean \"lab/boiler\"?"));
        assert!(said("pump", &queues).ends_with("did you mean \"lab/pump\" or \"roof/pump\"?"));
        assert!(said("roof", &queues).ends_with("\"roof/pump\" or \"roof/fan\" or \"roof/sun\"?"));
        for other in ["", "something else", "/"] {
            assert!(said(other, &queues).contains("`paquebot queue ls`"));
        }
        assert!(said("lab/pump", &[]).contains("`paquebot queue ls`"));
    }
}
