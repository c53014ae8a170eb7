//! `paquebot run` with things on AWS IoT that do jobs, before the emulator of it.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot_emulator::aws::services::JobStatus;
use serde_json::json;

#[path = "support/support.rs"]
mod support;

use support::cloud::Cloud;
use support::program::{Program, assert_accounted_for};
use support::wait;

const LIMIT: Duration = Duration::from_secs(90);
const THINGS: usize = 20;

struct Stage(Cloud);

impl Stage {
    fn new() -> Self {
        Self(Cloud::start())
    }

    /// A fleet whose groups are called as their models: each with its `jobs`, and how many things.
    fn run(&self, groups: &[(&str, &str, usize)]) -> Program {
        let mut text = self.0.by_certificate();
        for (name, jobs, count) in groups {
            text += &format!(
                r#"
[models.{name}]
state = {{ reported = {{ fw = "1" }} }}
jobs = {jobs}
[[groups]]
name = "{name}"
platform = "cloud"
model = "{name}"
count = {count}
id = "{name}-{{{{index}}}}"
"#
            );
        }
        self.0.run(&text, &[])
    }

    fn give(&self, job: &str, things: &[String]) {
        let things: Vec<&str> = things.iter().map(String::as_str).collect();
        let document = json!({ "operation": "reboot" });
        self.0
            .aws
            .tell(|services, now| services.create_job(job, &document, &things, now))
            .unwrap();
    }

    fn statuses(&self, thing: &str) -> Vec<JobStatus> {
        let executions = self
            .0
            .aws
            .services(|services| services.job_executions(thing));
        executions
            .iter()
            .map(|execution| execution.status)
            .collect()
    }

    fn stop(self) {
        self.0.stop();
    }
}

fn things(group: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{group}-{index}")).collect()
}

#[test]
fn jobs_end_as_the_model_says_and_are_counted() {
    let stage = Stage::new();
    let doers = things("doer", THINGS);
    // Half of it is there already, half comes to things that wait for it.
    stage.give("first", &doers);
    let others = ["failer-0", "refuser-0", "ignorer-0"].map(str::to_owned);
    stage.give("other", &others);
    let program = stage.run(&[
        ("doer", r#"{ on_job = "succeed", delay = "20ms" }"#, THINGS),
        ("failer", r#"{ on_job = "fail" }"#, 1),
        ("refuser", r#"{ on_job = "reject" }"#, 1),
        ("ignorer", r#"{ on_job = "ignore" }"#, 1),
    ]);
    let have_done = |jobs: usize| {
        let all = vec![JobStatus::Succeeded; jobs];
        doers.iter().all(|thing| stage.statuses(thing) == all)
    };
    wait::until("all have done the first job", LIMIT, || have_done(1));
    stage.give("second", &doers);
    wait::until("all have done the second job", LIMIT, || have_done(2));
    let ended = |thing: &str, status| {
        wait::until("the other job has ended", LIMIT, || {
            stage.statuses(thing) == [status]
        });
    };
    ended("failer-0", JobStatus::Failed);
    ended("refuser-0", JobStatus::Rejected);
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_accounted_for(&summary);
    let jobs = ["jobs_succeeded", "jobs_failed", "jobs_rejected"].map(|key| &summary[key]);
    assert_eq!(
        jobs,
        [&json!(2 * THINGS), &json!(1), &json!(1)],
        "{summary}"
    );
    // Nobody who ignores jobs asked for one.
    assert_eq!(stage.statuses("ignorer-0"), [JobStatus::Queued]);
    stage.stop();
}

#[test]
fn a_job_that_is_being_done_when_the_run_ends_is_finished_and_told() {
    let stage = Stage::new();
    let slow = things("slow", 1);
    stage.give("first", &slow);
    stage.give("second", &slow);
    let program = stage.run(&[("slow", r#"{ on_job = "succeed", delay = "1s" }"#, 1)]);
    let begun = [JobStatus::InProgress, JobStatus::Queued];
    wait::until("the first job is in progress", LIMIT, || {
        stage.statuses("slow-0") == begun
    });
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    // The signal may have come before the thing heard that it has the job; then that is for the next run.
    let done = summary["jobs_succeeded"].as_u64().unwrap();
    assert!(done <= 1, "{summary}");
    let succeeded = || {
        let statuses = stage.statuses("slow-0").into_iter();
        statuses
            .filter(|status| *status == JobStatus::Succeeded)
            .count() as u64
    };
    wait::until("the end of what was done is known", LIMIT, || {
        succeeded() == done
    });
    let program = stage.run(&[("slow", r#"{ on_job = "succeed" }"#, 1)]);
    wait::until("the other job is done too", LIMIT, || succeeded() == 2);
    program.signal("TERM");
    let summary = program.finish(LIMIT).summary();
    assert_eq!(summary["jobs_succeeded"], 2 - done, "{summary}");
    stage.stop();
}
