//! The jobs service, rule by rule.

use std::time::Duration;

use super::*;
use crate::aws::services::Audience;
use crate::aws::services::json::object_text;
use crate::aws::services::message::Role;
use crate::aws::services::names::ServiceTopic;

/// A service with the time that its requests come at.
struct Service {
    jobs: Jobs,
    settings: JobSettings,
    now: SystemTime,
}

impl Service {
    /// With jobs for the thing `Bot`, queued in this order.
    fn with(jobs: &[&str]) -> Self {
        let mut service = Self {
            jobs: Jobs::default(),
            settings: JobSettings::default(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        };
        for job_id in jobs {
            service.create(job_id);
        }
        service
    }

    fn create(&mut self, job_id: &str) -> Vec<String> {
        let document = Json::parse(br#"{"do":"it"}"#).unwrap();
        let jobs = &mut self.jobs;
        let messages = jobs.create(job_id, &document, &["Bot"], &self.settings, self.now);
        lines(&messages.unwrap())
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        lines(&self.jobs.handle_deadline(&self.settings, self.now))
    }

    fn messages(&mut self, topic: &str, payload: &str) -> Vec<Message> {
        let topic = format!("$aws/things/Bot/jobs/{topic}");
        let Some(ServiceTopic::Jobs { thing, operation }) = ServiceTopic::parse(&topic) else {
            panic!("{topic} is no topic of the jobs service");
        };
        let request = JobRequest {
            thing,
            operation,
            topic: &topic,
            payload: payload.as_bytes(),
        };
        let messages = self.jobs.handle(&request, None, &self.settings, self.now);
        let (answer, events) = messages.split_first().unwrap();
        assert_eq!(answer.to, Audience::Requester);
        assert!(events.iter().all(|event| event.role == Role::Event));
        messages
    }

    /// What a request answers and causes, a line `topic payload` each.
    fn ask(&mut self, topic: &str, payload: &str) -> Vec<String> {
        lines(&self.messages(topic, payload))
    }

    fn refusal(&mut self, topic: &str, payload: &str) -> String {
        let messages = self.messages(topic, payload);
        let [answer] = messages.as_slice() else {
            panic!("a refusal causes nothing else: {messages:?}");
        };
        assert!(answer.topic.ends_with("/rejected"), "{answer:?}");
        answer.body["code"].as_str().unwrap().to_owned()
    }

    fn status(&self, job_id: &str) -> JobStatus {
        self.view(job_id).status
    }

    fn view(&self, job_id: &str) -> JobExecution {
        let mut all = self.jobs.of_thing("Bot").into_iter();
        all.find(|execution| execution.job_id == job_id).unwrap()
    }
}

fn lines(messages: &[Message]) -> Vec<String> {
    let line = |message: &Message| {
        let topic = message.topic.strip_prefix("$aws/things/Bot/jobs/");
        format!("{} {}", topic.unwrap(), object_text(&message.body))
    };
    messages.iter().map(line).collect()
}

fn topics(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect()
}

const QUEUED: &str =
    r#"{"executionNumber":1,"jobId":"j","lastUpdatedAt":10,"queuedAt":10,"versionNumber":1}"#;

#[test]
fn a_new_job_is_announced_and_so_is_that_it_is_next() {
    let mut service = Service::with(&[]);
    let expected = [
        format!(r#"notify {{"jobs":{{"QUEUED":[{QUEUED}]}},"timestamp":10}}"#),
        concat!(
            r#"notify-next {"execution":{"executionNumber":1,"jobDocument":{"do":"it"},"#,
            r#""jobId":"j","lastUpdatedAt":10,"queuedAt":10,"status":"QUEUED","#,
            r#""thingName":"Bot","versionNumber":1},"timestamp":10}"#
        )
        .to_owned(),
    ];
    assert_eq!(service.create("j"), expected);
    let second = service.create("k");
    assert_eq!(topics(&second), ["notify"], "the next one is the same");
}

#[test]
fn pending_jobs_are_listed_by_status_in_the_order_of_their_creation() {
    let mut service = Service::with(&[]);
    let nothing = r#"get/accepted {"inProgressJobs":[],"queuedJobs":[],"timestamp":10}"#;
    assert_eq!(service.ask("get", ""), [nothing]);
    for job_id in ["b", "a", "c"] {
        service.create(job_id);
    }
    service.ask("c/update", r#"{"status":"IN_PROGRESS"}"#);
    service.ask("start-next", "{}");
    let found = &service.ask("get", r#"{"clientToken":"t"}"#)[0];
    let ids: Vec<_> = found
        .split("\"jobId\":\"")
        .skip(1)
        .map(|rest| &rest[..1])
        .collect();
    assert_eq!(ids, ["c", "b", "a"], "{found}");
    assert!(found.contains(r#""clientToken":"t""#), "{found}");
}

#[test]
fn start_next_starts_the_first_queued_job_and_shows_all_of_it() {
    let mut service = Service::with(&["j"]);
    service.now += Duration::from_secs(5);
    let found = service.ask(
        "start-next",
        r#"{"clientToken":"t","statusDetails":{"step":"1"},"stepTimeoutInMinutes":5}"#,
    );
    let expected = concat!(
        r#"start-next/accepted {"clientToken":"t","execution":{"executionNumber":1,"#,
        r#""jobDocument":{"do":"it"},"jobId":"j","lastUpdatedAt":15,"queuedAt":10,"#,
        r#""startedAt":15,"status":"IN_PROGRESS","statusDetails":{"step":"1"},"#,
        r#""thingName":"Bot","versionNumber":2},"timestamp":15}"#
    );
    assert_eq!(
        found,
        [expected],
        "neither the pending ones nor the next change"
    );
}

#[test]
fn start_next_leaves_a_running_job_as_it_is() {
    let mut service = Service::with(&["j", "k"]);
    service.ask("start-next", r#"{"statusDetails":{"step":"1"}}"#);
    let again = service.ask("start-next", r#"{"statusDetails":{"step":"2"}}"#);
    assert!(again[0].contains(r#""jobId":"j""#), "{again:?}");
    assert!(
        again[0].contains(r#""statusDetails":{"step":"1"}"#),
        "{again:?}"
    );
    assert_eq!(service.view("j").version_number, 2);
    let mut idle = Service::with(&[]);
    let nothing = r#"start-next/accepted {"timestamp":10}"#;
    assert_eq!(idle.ask("start-next", "{}"), [nothing]);
}

#[test]
fn a_job_is_described_by_its_identifier_or_as_the_next() {
    let mut service = Service::with(&["j"]);
    for topic in ["j/get", "$next/get"] {
        let found = service.ask(topic, r#"{"includeJobDocument":true}"#);
        assert!(
            found[0].starts_with(&format!("{topic}/accepted")),
            "{found:?}"
        );
        assert!(
            found[0].contains(r#""jobDocument":{"do":"it"}"#),
            "{found:?}"
        );
        let found = service.ask(topic, "{}");
        assert!(found[0].contains("jobDocument"), "that is the default");
        let found = service.ask(topic, r#"{"includeJobDocument":false}"#);
        assert!(!found[0].contains("jobDocument"), "{found:?}");
    }
    assert_eq!(service.refusal("k/get", ""), "ResourceNotFound");
    assert_eq!(
        service.refusal("j/get", r#"{"executionNumber":2}"#),
        "ResourceNotFound"
    );
    service.ask("j/update", r#"{"status":"SUCCEEDED"}"#);
    assert_eq!(service.refusal("j/get", ""), "TerminalStateReached");
    let nothing = r#"$next/get/accepted {"timestamp":10}"#;
    assert_eq!(service.ask("$next/get", ""), [nothing]);
}

#[test]
fn a_job_that_ends_is_no_longer_pending_and_the_next_one_is_announced() {
    let mut service = Service::with(&["j", "k"]);
    let found = service.ask("j/update", r#"{"status":"SUCCEEDED","clientToken":"t"}"#);
    assert_eq!(
        topics(&found),
        ["j/update/accepted", "notify", "notify-next"]
    );
    assert_eq!(
        found[0],
        r#"j/update/accepted {"clientToken":"t","timestamp":10}"#
    );
    assert!(found[2].contains(r#""jobId":"k""#), "{found:?}");
    let found = service.ask("k/update", r#"{"status":"FAILED"}"#);
    assert_eq!(found[1], r#"notify {"jobs":{},"timestamp":10}"#);
    assert_eq!(found[2], r#"notify-next {"timestamp":10}"#);
}

#[test]
fn the_next_job_changes_when_another_is_started_before_it() {
    let mut service = Service::with(&["j", "k"]);
    let found = service.ask("k/update", r#"{"status":"IN_PROGRESS"}"#);
    assert_eq!(topics(&found), ["k/update/accepted", "notify-next"]);
    assert!(found[1].contains(r#""jobId":"k""#), "{found:?}");
}

#[test]
fn an_update_shows_state_and_document_when_asked() {
    let mut service = Service::with(&["j"]);
    let found = service.ask(
        "j/update",
        concat!(
            r#"{"status":"IN_PROGRESS","statusDetails":{"p":"50%"},"expectedVersion":"1","#,
            r#""executionNumber":"1","includeJobExecutionState":true,"includeJobDocument":true}"#
        ),
    );
    let expected = concat!(
        r#"j/update/accepted {"executionState":{"status":"IN_PROGRESS","#,
        r#""statusDetails":{"p":"50%"},"versionNumber":2},"jobDocument":{"do":"it"},"timestamp":10}"#
    );
    assert_eq!(found, [expected], "numbers may come as texts");
    service.ask(
        "j/update",
        r#"{"status":"IN_PROGRESS","expectedVersion":2}"#,
    );
    let view = service.view("j");
    assert_eq!(view.version_number, 3);
    assert_eq!(
        view.status_details["p"], "50%",
        "details that are not given stay"
    );
}

#[test]
fn an_update_of_another_version_is_refused_with_the_execution_as_it_is() {
    let mut service = Service::with(&["j"]);
    let found = service.ask("j/update", r#"{"status":"FAILED","expectedVersion":2}"#);
    let expected = concat!(
        r#"j/update/rejected {"code":"VersionMismatch","#,
        r#""executionState":{"status":"QUEUED","versionNumber":1},"#,
        r#""message":"The version of the execution is 1","timestamp":10}"#
    );
    assert_eq!(found, [expected]);
}

#[test]
fn a_thing_moves_a_job_along_until_it_ends_and_never_from_there() {
    for first in ["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"] {
        for second in ["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"] {
            let mut service = Service::with(&["j"]);
            let status = |status: &str| format!(r#"{{"status":"{status}"}}"#);
            service.ask("j/update", &status(first));
            assert_eq!(service.status("j").as_str(), first);
            if first == "IN_PROGRESS" {
                service.ask("j/update", &status(second));
                assert_eq!(service.status("j").as_str(), second);
            } else {
                let found = service.ask("j/update", &status(second));
                assert!(found[0].contains("InvalidStateTransition"), "{found:?}");
                let state = format!(r#""executionState":{{"status":"{first}""#);
                assert!(found[0].contains(&state), "{found:?}");
                assert_eq!(service.status("j").as_str(), first);
            }
        }
    }
}

#[test]
fn each_malformed_request_is_refused_with_its_code() {
    let mut service = Service::with(&["j"]);
    for (topic, payload, code) in [
        ("get", "{", "InvalidJson"),
        ("get", "[]", "InvalidJson"),
        ("get", r#"{"clientToken":1}"#, "InvalidRequest"),
        ("start-next", r#"{"statusDetails":[]}"#, "InvalidRequest"),
        (
            "start-next",
            r#"{"statusDetails":{"a":1}}"#,
            "InvalidRequest",
        ),
        (
            "start-next",
            r#"{"stepTimeoutInMinutes":0}"#,
            "InvalidRequest",
        ),
        (
            "start-next",
            r#"{"stepTimeoutInMinutes":10081}"#,
            "InvalidRequest",
        ),
        (
            "start-next",
            r#"{"stepTimeoutInMinutes":"x"}"#,
            "InvalidRequest",
        ),
        ("j/get", r#"{"includeJobDocument":"yes"}"#, "InvalidRequest"),
        ("j/get", r#"{"executionNumber":1.5}"#, "InvalidRequest"),
        ("j/update", "{}", "InvalidRequest"),
        ("j/update", r#"{"status":"QUEUED"}"#, "InvalidRequest"),
        ("j/update", r#"{"status":"TIMED_OUT"}"#, "InvalidRequest"),
        ("j/update", r#"{"status":"DONE"}"#, "InvalidRequest"),
        ("k/update", r#"{"status":"FAILED"}"#, "ResourceNotFound"),
        (
            "j/update",
            r#"{"status":"FAILED","executionNumber":"2"}"#,
            "ResourceNotFound",
        ),
        ("$next/update", r#"{"status":"FAILED"}"#, "InvalidTopic"),
        ("j/run", "{}", "InvalidTopic"),
        ("j/get/now", "{}", "InvalidTopic"),
    ] {
        assert_eq!(service.refusal(topic, payload), code, "{topic} {payload}");
    }
    assert_eq!(
        service.view("j").version_number,
        1,
        "a refusal changes nothing"
    );
}

#[test]
fn a_step_that_takes_too_long_times_the_job_out() {
    let mut service = Service::with(&["j"]);
    assert_eq!(service.jobs.deadline(), None);
    service.ask("start-next", r#"{"stepTimeoutInMinutes":5}"#);
    let end = service.now + Duration::from_mins(5);
    assert_eq!(service.jobs.deadline(), Some(end));
    assert_eq!(service.wait(Duration::from_secs(299)), Vec::<String>::new());
    let found = service.wait(Duration::from_secs(1));
    assert_eq!(topics(&found), ["notify", "notify-next"]);
    assert_eq!(service.status("j"), JobStatus::TimedOut);
    assert_eq!(service.view("j").version_number, 3);
    assert_eq!(service.jobs.deadline(), None);
    let late = service.refusal("j/update", r#"{"status":"SUCCEEDED"}"#);
    assert_eq!(late, "InvalidStateTransition");
}

#[test]
fn an_update_moves_the_steps_end_and_minus_one_takes_it_away() {
    let mut service = Service::with(&["j"]);
    service.ask("start-next", r#"{"stepTimeoutInMinutes":1}"#);
    service.ask(
        "j/update",
        r#"{"status":"IN_PROGRESS","stepTimeoutInMinutes":"10"}"#,
    );
    let end = service.now + Duration::from_mins(10);
    assert_eq!(service.jobs.deadline(), Some(end));
    service.ask("j/update", r#"{"status":"IN_PROGRESS"}"#);
    assert_eq!(
        service.jobs.deadline(),
        Some(end),
        "one that says nothing of it"
    );
    service.ask(
        "j/update",
        r#"{"status":"IN_PROGRESS","stepTimeoutInMinutes":-1}"#,
    );
    assert_eq!(service.jobs.deadline(), None);
    service.ask(
        "j/update",
        r#"{"status":"IN_PROGRESS","stepTimeoutInMinutes":1}"#,
    );
    service.ask("j/update", r#"{"status":"SUCCEEDED"}"#);
    assert_eq!(service.jobs.deadline(), None, "and so does the end");
}

#[test]
fn a_cancelled_job_leaves_what_runs_unless_it_is_forced() {
    let mut service = Service::with(&["j", "k"]);
    service.ask("start-next", "{}");
    let settings = service.settings.clone();
    let cancel = |service: &mut Service, job_id: &str, force| {
        let found = service.jobs.cancel(job_id, force, &settings, service.now);
        found.map(|messages| lines(&messages))
    };
    assert_eq!(
        cancel(&mut service, "j", false).unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(service.status("j"), JobStatus::InProgress);
    let found = cancel(&mut service, "k", false).unwrap();
    assert_eq!(topics(&found), ["notify"]);
    assert_eq!(service.status("k"), JobStatus::Canceled);
    let found = cancel(&mut service, "j", true).unwrap();
    assert_eq!(topics(&found), ["notify", "notify-next"]);
    assert_eq!(service.status("j"), JobStatus::Canceled);
    let unknown = JobError::Unknown("x".to_owned());
    assert_eq!(cancel(&mut service, "x", true), Err(unknown));
}

#[test]
fn a_thing_that_is_removed_has_no_jobs_any_more() {
    let mut service = Service::with(&["j", "k"]);
    let settings = service.settings.clone();
    let found = service.jobs.remove_thing("Bot", &settings, service.now);
    assert_eq!(topics(&lines(&found)), ["notify", "notify-next"]);
    assert_eq!(service.status("j"), JobStatus::Removed);
    assert_eq!(service.status("k"), JobStatus::Removed);
}

#[test]
fn no_more_than_ten_jobs_are_listed_by_notify() {
    let ids: Vec<_> = (0..10).map(|index| format!("j{index}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut service = Service::with(&ids);
    let found = service.create("eleventh");
    assert_eq!(found[0].matches("jobId").count(), 10);
    assert!(!found[0].contains("eleventh"), "{found:?}");
}

#[test]
fn a_job_that_cannot_be_made_is_refused() {
    let mut service = Service::with(&["j"]);
    let mut create = |job_id: &str, thing: &str| {
        let things = [thing];
        let jobs = &mut service.jobs;
        let made = jobs.create(job_id, &Json::Null, &things, &service.settings, service.now);
        made.map(|messages| messages.len())
    };
    assert_eq!(create("j", "Bot2"), Err(JobError::Exists("j".to_owned())));
    assert_eq!(
        create("a/b", "Bot"),
        Err(JobError::BadJobId("a/b".to_owned()))
    );
    assert_eq!(
        create("$next", "Bot"),
        Err(JobError::BadJobId("$next".to_owned()))
    );
    assert_eq!(
        create("k", "B t"),
        Err(JobError::BadThingName("B t".to_owned()))
    );
}
