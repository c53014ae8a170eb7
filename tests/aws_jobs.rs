//! AWS IoT jobs: requests and answers, and a handler that does one job after the other.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use paquebot::aws::{
    Job, JobDetails, JobName, JobOutcome, JobSettlement, JobStatus, JobUpdate, Jobs, JobsError,
    JobsErrorCode, RequestError,
};
use paquebot::dialect::Aws;
use paquebot::mqtt::{QoS, ReasonCode, Topic, TopicFilter, Version};
use paquebot::{Fleet, Link, SubscribeError};
use paquebot_emulator::{Broker, Policy, Target, Watch};
use serde_json::{Value, json};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, Gangway, broker, drain, fleet, online, soon, start, until};

/// The jobs service, as each test says: what things ask for, and what they are told.
struct Service {
    broker: Broker,
    watch: Watch,
    is_asked_for_jobs: bool,
}

/// What a thing asked for: `start-next`, `job-1/update` … and the request.
type Asked = (String, Value);

impl Service {
    fn new(broker: &Broker) -> Self {
        let filter = TopicFilter::new("$aws/things/Bot/jobs/#").unwrap();
        Self {
            broker: broker.clone(),
            watch: broker.watch(filter),
            is_asked_for_jobs: false,
        }
    }

    /// The next request. Whether a job is still there may be asked at any time: it is, unless the test waits for that
    /// question.
    async fn asked(&mut self) -> Asked {
        loop {
            let (end, body) = self.any_asked().await;
            match end.strip_suffix("/get").filter(|job| *job != "$next") {
                Some(job) if !self.is_asked_for_jobs => {
                    let there = json!({"execution": execution(job, 2)});
                    self.answer(&format!("{end}/accepted"), &body, there);
                }
                _ => return (end, body),
            }
        }
    }

    async fn any_asked(&mut self) -> Asked {
        loop {
            let message = soon("the thing asks", self.watch.recv()).await.unwrap();
            if message.client_id.is_none() {
                continue;
            }
            let end = message.topic.as_str().strip_prefix("$aws/things/Bot/jobs/");
            let body = serde_json::from_slice(&message.payload).unwrap();
            return (end.unwrap().to_owned(), body);
        }
    }

    /// The next request, which is to be this one.
    async fn expect(&mut self, end: &str) -> Value {
        let (asked, body) = self.asked().await;
        assert_eq!(asked, end, "{body}");
        body
    }

    fn tell(&self, end: &str, body: &Value) {
        let topic = Topic::new(format!("$aws/things/Bot/jobs/{end}")).unwrap();
        self.broker
            .publish(topic, body.to_string(), QoS::AtLeastOnce, false);
    }

    fn answer(&self, end: &str, asked: &Value, mut body: Value) {
        body["clientToken"] = asked["clientToken"].clone();
        self.tell(end, &body);
    }

    /// Takes a request for the next job and gives this one, or none.
    async fn give(&mut self, execution: Option<Value>) {
        let asked = self.expect("start-next").await;
        let body = match execution {
            Some(execution) => json!({"execution": execution}),
            None => json!({}),
        };
        self.answer("start-next/accepted", &asked, body);
    }

    /// Has no job any more, and stops the link that asks for one.
    async fn end(&mut self, link: &Link) {
        self.give(None).await;
        link.stop().await;
    }

    /// Takes an update of a job that says this, and accepts it.
    async fn take_update(&mut self, job: &str, status: &str, expected_version: u64) -> Value {
        let asked = self.expect(&format!("{job}/update")).await;
        assert_eq!(asked["status"], status, "{asked}");
        assert_eq!(asked["expectedVersion"], expected_version, "{asked}");
        let state = json!({"status": status, "versionNumber": expected_version + 1});
        let body = json!({"executionState": state});
        self.answer(&format!("{job}/update/accepted"), &asked, body);
        asked
    }
}

fn execution(job: &str, version: u64) -> Value {
    json!({
        "jobId": job, "thingName": "Bot", "status": "IN_PROGRESS", "queuedAt": 1,
        "versionNumber": version, "executionNumber": 1, "jobDocument": {"do": job}
    })
}

fn thing(fleet: &Fleet, gangway: &Gangway, version: Version) -> Link {
    let group = gangway.group(fleet, version);
    start(group.dialect(Aws::default()), "Bot")
}

async fn set_up() -> (Fleet, Link, Jobs, Service, Gangway) {
    set_up_in(Version::V311).await
}

async fn set_up_in(version: Version) -> (Fleet, Link, Jobs, Service, Gangway) {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    gangway.open();
    let fleet = fleet();
    let link = thing(&fleet, &gangway, version);
    online(&link).await;
    let jobs = Jobs::of(&link.device()).unwrap();
    (fleet, link, jobs, Service::new(&broker), gangway)
}

/// Serves while the script runs, which ends it.
async fn until_over(
    fleet: &Fleet,
    serving: impl Future<Output = Result<(), JobsError>>,
    script: impl Future<Output = ()>,
) {
    let (served, ()) = soon("it is over", async { tokio::join!(serving, script) }).await;
    served.unwrap();
    drain(fleet).await;
}

#[tokio::test]
async fn each_request_gets_the_answer_with_its_token() {
    for version in BOTH {
        ask_for_everything(version).await;
    }
}

async fn ask_for_everything(version: Version) {
    let (fleet, _link, jobs, mut service, _) = set_up_in(version).await;
    let script = async {
        let asked = service.expect("get").await;
        service.tell(
            "get/accepted",
            &json!({"clientToken": "another", "queuedJobs": []}),
        );
        service.tell("get/accepted", &json!({"queuedJobs": []}));
        service.tell("get/accepted", &json!("nonsense"));
        let queued = json!([{"jobId": "job-1", "versionNumber": "1"}]);
        service.answer("get/accepted", &asked, json!({"queuedJobs": queued}));

        let asked = service.expect("start-next").await;
        assert_eq!(asked["statusDetails"], json!({"step": "1"}));
        let body = json!({"execution": execution("job-1", 2)});
        service.answer("start-next/accepted", &asked, body);

        let asked = service.expect("$next/get").await;
        assert_eq!(asked["includeJobDocument"], false);
        service.answer("$next/get/accepted", &asked, json!({}));

        service.take_update("job-1", "SUCCEEDED", 2).await;
    };
    let calls = async {
        let pending = jobs.pending().await.unwrap();
        assert_eq!(pending.queued[0].job_id, "job-1");
        let details = [("step", "1")].into();
        let started = jobs.start_next(Some(details), None).await.unwrap().unwrap();
        assert_eq!(started.document, Some(json!({"do": "job-1"})));
        assert_eq!(jobs.describe(JobName::Next, false).await.unwrap(), None);
        let update = JobUpdate::new(JobStatus::Succeeded).with_expected_version(2);
        let updated = jobs.update("job-1", update).await.unwrap();
        assert_eq!(updated.state.unwrap().version, Some(3));
    };
    soon("all is answered", async { tokio::join!(script, calls) }).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_refusal_has_the_services_code_and_words() {
    let (fleet, _link, jobs, mut service, _) = set_up().await;
    let script = async {
        service.is_asked_for_jobs = true;
        let asked = service.expect("gone/get").await;
        let body = json!({"code": "ResourceNotFound", "message": "no such job"});
        service.answer("gone/get/rejected", &asked, body);
    };
    let name = JobName::Id("gone".into());
    let calls = jobs.describe(name, true);
    let ((), result) = soon("it is answered", async { tokio::join!(script, calls) }).await;
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(&JobsErrorCode::ResourceNotFound));
    assert_eq!(
        error.to_string(),
        "the jobs service answered ResourceNotFound: no such job"
    );
    drain(&fleet).await;
}

#[tokio::test]
async fn nothing_is_asked_without_a_connection_and_nothing_waits() {
    let broker = broker().await;
    let gangway = Gangway::new(&broker);
    let fleet = fleet();
    let link = thing(&fleet, &gangway, Version::V311);
    let jobs = Jobs::of(&link.device()).unwrap();
    let error = soon("it is refused", jobs.pending()).await.unwrap_err();
    assert!(matches!(error, JobsError::Request(RequestError::Offline)));
    assert_eq!(fleet.totals().accepted, 0);
    link.stop().await;
    let error = soon("it is refused", jobs.pending()).await.unwrap_err();
    assert!(matches!(error, JobsError::Request(RequestError::Stopped)));
    drain(&fleet).await;
}

#[tokio::test]
async fn a_request_ends_with_its_connection() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let script = async {
        service.expect("get").await;
        service
            .broker
            .faults()
            .disconnect(&Target::client("Bot"), None);
    };
    let ((), result) = soon("it ends", async { tokio::join!(script, jobs.pending()) }).await;
    let error = result.unwrap_err();
    assert!(
        matches!(error, JobsError::Request(RequestError::Disconnected)),
        "{error}"
    );
    online(&link).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_request_ends_in_time_and_its_late_answer_harms_nothing() {
    let (fleet, _link, jobs, mut service, _) = set_up().await;
    let hasty = jobs.clone().with_deadline(Duration::from_millis(300));
    let (asked, result) = soon("it ends", async {
        tokio::join!(service.expect("get"), hasty.pending())
    })
    .await;
    let error = result.unwrap_err();
    assert!(
        matches!(error, JobsError::Request(RequestError::TimedOut(_))),
        "{error}"
    );
    let script = async {
        let second = service.expect("get").await;
        let late = json!({"queuedJobs": [{"jobId": "late"}]});
        service.answer("get/accepted", &asked, late);
        service.answer("get/accepted", &second, json!({"queuedJobs": []}));
    };
    let ((), result) = soon("it ends", async { tokio::join!(script, jobs.pending()) }).await;
    assert!(result.unwrap().queued.is_empty());
    drain(&fleet).await;
}

#[tokio::test]
async fn a_bounded_number_waits_and_one_that_is_given_up_makes_room() {
    let (fleet, _link, jobs, mut service, _) = set_up().await;
    let all = (0..10).map(|_| {
        let jobs = jobs.clone();
        tokio::spawn(async move { jobs.pending().await })
    });
    let all: Vec<_> = all.collect();
    for _ in 0..10 {
        service.expect("get").await;
    }
    let error = soon("it is refused", jobs.pending()).await.unwrap_err();
    assert!(matches!(error, JobsError::Request(RequestError::Busy)));
    all[0].abort();
    let script = async {
        let asked = service.expect("get").await;
        service.answer("get/accepted", &asked, json!({}));
    };
    let ask = async {
        while let Err(JobsError::Request(RequestError::Busy)) = jobs.pending().await {
            tokio::task::yield_now().await;
        }
    };
    soon("there is room", async { tokio::join!(script, ask) }).await;
    drain(&fleet).await;
}

struct NoAnswers;

impl Policy for NoAnswers {
    fn may_subscribe(&self, _: &str, filter: &TopicFilter) -> bool {
        !filter.as_str().ends_with("accepted")
    }
}

#[tokio::test]
async fn who_may_not_hear_the_answers_is_told_so() {
    let broker = Broker::builder().policy(NoAnswers).start().await.unwrap();
    let gangway = Gangway::new(&broker);
    gangway.open();
    let fleet = fleet();
    let link = thing(&fleet, &gangway, Version::V311);
    online(&link).await;
    let jobs = Jobs::of(&link.device()).unwrap();
    for _ in 0..2 {
        let error = soon("it is refused", jobs.pending()).await.unwrap_err();
        let JobsError::Request(RequestError::Subscribe(error)) = error else {
            panic!("{error}");
        };
        assert!(
            matches!(&*error, SubscribeError::Refused { code, .. } if *code != ReasonCode::SUCCESS),
            "{error}"
        );
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn a_handler_does_a_job_tells_how_it_goes_and_waits_for_the_next() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let serving = jobs.serve(|job: Job| async move {
        let document = job.document().cloned().unwrap();
        job.progress([("done", "half")]).await.unwrap();
        JobOutcome::Succeeded(JobDetails::new().with("did", document["do"].to_string()))
    });
    let script = async {
        service.give(None).await;
        // Waits for the next one: no request until it is told.
        service.tell("notify-next", &json!({"execution": {"jobId": "job-1"}}));
        service.give(Some(execution("job-1", 2))).await;
        let told = service.take_update("job-1", "IN_PROGRESS", 2).await;
        assert_eq!(told["statusDetails"], json!({"done": "half"}));
        let told = service.take_update("job-1", "SUCCEEDED", 3).await;
        assert_eq!(told["statusDetails"], json!({"did": "\"job-1\""}));
        assert_eq!(told["executionNumber"], 1);
        service.tell("notify-next", &json!({}));
        service.give(Some(execution("job-2", 7))).await;
        service.take_update("job-2", "IN_PROGRESS", 7).await;
        service.take_update("job-2", "SUCCEEDED", 8).await;
        service.end(&link).await;
    };
    until_over(&fleet, serving, script).await;
}

#[tokio::test]
async fn an_update_is_made_once_more_when_somebody_else_changed_the_job() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let serving = jobs.serve(|_| async { JobOutcome::Rejected(JobDetails::new()) });
    let script = async {
        service.give(Some(execution("job-1", 2))).await;
        let asked = service.expect("job-1/update").await;
        assert_eq!(
            (&asked["status"], &asked["expectedVersion"]),
            (&"REJECTED".into(), &2.into())
        );
        let state = json!({"status": "IN_PROGRESS", "versionNumber": 5});
        let body = json!({"code": "VersionMismatch", "message": "5", "executionState": state});
        service.answer("job-1/update/rejected", &asked, body);
        service.take_update("job-1", "REJECTED", 5).await;
        service.end(&link).await;
    };
    until_over(&fleet, serving, script).await;
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_job_and_no_other() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let serving = jobs.serve(|job: Job| async move {
        assert_ne!(job.id(), "job-1", "cannot do this one");
        JobOutcome::Succeeded(JobDetails::new())
    });
    let script = async {
        service.give(Some(execution("job-1", 2))).await;
        let told = service.take_update("job-1", "FAILED", 2).await;
        let reason = told["statusDetails"]["reason"].as_str().unwrap().to_owned();
        assert!(
            reason.contains("panicked") && reason.contains("cannot do this one"),
            "{reason}"
        );
        service.give(Some(execution("job-2", 2))).await;
        service.take_update("job-2", "SUCCEEDED", 2).await;
        service.end(&link).await;
    };
    until_over(&fleet, serving, script).await;
}

#[tokio::test]
async fn a_job_whose_end_could_not_be_told_is_told_after_the_outage_and_not_done_twice() {
    let (fleet, link, jobs, mut service, gangway) = set_up().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let (go, may_go) = tokio::sync::watch::channel(false);
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel::<Job>();
    let serving = jobs.serve(|job| {
        give.send(job).unwrap();
        counted.fetch_add(1, Ordering::Relaxed);
        let mut may_go = may_go.clone();
        async move {
            may_go.wait_for(|go| *go).await.unwrap();
            JobOutcome::Failed([("why", "it rained")].into())
        }
    });
    let script = async {
        let mut events = link.events();
        service.give(Some(execution("job-1", 2))).await;
        until("the handler runs", || runs.load(Ordering::Relaxed) == 1).await;
        gangway.shut();
        service
            .broker
            .faults()
            .disconnect(&Target::client("Bot"), None);
        support::fleet::disconnected(&mut events).await;
        go.send(true).unwrap();
        support::fleet::retrying(&mut events).await;
        gangway.open();
        let asked = service.asked().await;
        assert_eq!(
            (asked.0.as_str(), &asked.1["status"]),
            ("job-1/update", &"FAILED".into())
        );
        // The answer is lost with the next connection, and the service has taken it.
        service
            .broker
            .faults()
            .disconnect(&Target::client("Bot"), None);
        let asked = service.expect("job-1/update").await;
        let state = json!({"status": "FAILED", "versionNumber": 3});
        let body = json!({"code": "InvalidStateTransition", "executionState": state});
        service.answer("job-1/update/rejected", &asked, body);
        let job = given.recv().await.unwrap();
        assert_eq!(job.settled().await, JobSettlement::Taken);
        assert!(!job.has_ended());
        service.end(&link).await;
    };
    let (result, ()) = soon("it is over", async { tokio::join!(serving, script) }).await;
    result.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    drain(&fleet).await;
}

#[tokio::test]
async fn an_execution_that_comes_again_is_told_its_outcome_and_not_done_again() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let serving = jobs.serve(|_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { JobOutcome::Succeeded(JobDetails::new()) }
    });
    let script = async {
        service.give(Some(execution("job-1", 2))).await;
        service.take_update("job-1", "SUCCEEDED", 2).await;
        service.give(Some(execution("job-1", 3))).await;
        service.take_update("job-1", "SUCCEEDED", 3).await;
        let mut retried = execution("job-1", 1);
        retried["executionNumber"] = 2.into();
        service.give(Some(retried)).await;
        service.take_update("job-1", "SUCCEEDED", 1).await;
        service.end(&link).await;
    };
    let (result, ()) = soon("it is over", async { tokio::join!(serving, script) }).await;
    result.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    drain(&fleet).await;
}

#[tokio::test]
async fn who_waits_for_a_job_that_comes_again_learns_what_becomes_of_it() {
    for is_taken in [true, false] {
        let (fleet, link, jobs, mut service, _) = set_up().await;
        let (give, mut given) = tokio::sync::mpsc::unbounded_channel::<Job>();
        let serving = jobs.serve(|job| {
            give.send(job).unwrap();
            async { JobOutcome::Succeeded(JobDetails::new()) }
        });
        let script = async {
            service.give(Some(execution("job-1", 2))).await;
            let asked = service.expect("job-1/update").await;
            let body = json!({"code": "InvalidRequest", "message": "not now"});
            service.answer("job-1/update/rejected", &asked, body);
            let job = given.recv().await.unwrap();
            service.give(Some(execution("job-1", 3))).await;
            if is_taken {
                service.take_update("job-1", "SUCCEEDED", 3).await;
                assert_eq!(job.settled().await, JobSettlement::Taken);
                assert!(!job.has_ended());
            } else {
                let asked = service.expect("job-1/update").await;
                let state = json!({"status": "TIMED_OUT", "versionNumber": 4});
                let body = json!({"code": "InvalidStateTransition", "executionState": state});
                service.answer("job-1/update/rejected", &asked, body);
                job.ended().await;
                assert_eq!(job.settled().await, JobSettlement::Ended);
                assert!(job.has_ended());
            }
            service.end(&link).await;
            assert!(given.try_recv().is_err());
        };
        until_over(&fleet, serving, script).await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_job_beyond_the_end_of_its_link() {
    for has_outcome in [true, false] {
        let (fleet, link, jobs, mut service, _) = set_up().await;
        let (give, mut given) = tokio::sync::mpsc::unbounded_channel::<Job>();
        let serving = jobs.serve(|job: Job| {
            give.send(job.clone()).unwrap();
            async move {
                if !has_outcome {
                    job.ended().await;
                }
                JobOutcome::Succeeded(JobDetails::new())
            }
        });
        let script = async {
            service.give(Some(execution("job-1", 2))).await;
            let job = given.recv().await.unwrap();
            if has_outcome {
                service.expect("job-1/update").await;
            }
            link.stop().await;
            assert_eq!(job.settled().await, JobSettlement::Stopped);
            job.ended().await;
            assert!(!job.has_ended());
        };
        until_over(&fleet, serving, script).await;
    }
}

#[tokio::test]
async fn who_waits_for_a_job_learns_that_nobody_serves_it_any_more() {
    let (fleet, _link, jobs, mut service, _) = set_up().await;
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel::<Job>();
    let serving = jobs.serve(|job| {
        give.send(job).unwrap();
        std::future::pending()
    });
    let script = async {
        service.give(Some(execution("job-1", 2))).await;
        given.recv().await.unwrap()
    };
    let job = soon("it is given", async {
        tokio::select! {
            _ = serving => panic!("it is served"),
            job = script => job,
        }
    });
    let job = job.await;
    assert_eq!(soon("it ends", job.settled()).await, JobSettlement::Stopped);
    drain(&fleet).await;
}

#[tokio::test]
async fn a_handler_learns_that_its_job_was_taken_back() {
    let (fleet, link, jobs, mut service, _) = set_up().await;
    let serving = jobs.serve(|job: Job| async move {
        if job.id() == "job-1" {
            job.ended().await;
            let error = job.progress([("step", "2")]).await.unwrap_err();
            assert!(matches!(error, JobsError::Ended), "{error}");
        }
        JobOutcome::Succeeded(JobDetails::new())
    });
    let script = async {
        service.give(Some(execution("job-1", 2))).await;
        service.tell("notify-next", &json!({"execution": {"jobId": "job-2"}}));
        service.is_asked_for_jobs = true;
        let asked = service.expect("job-1/get").await;
        let body = json!({"code": "TerminalStateReached", "message": "it was canceled"});
        service.answer("job-1/get/rejected", &asked, body);
        service.is_asked_for_jobs = false;
        // Nothing is said about the job any more.
        service.give(Some(execution("job-2", 2))).await;
        service.take_update("job-2", "SUCCEEDED", 2).await;
        service.end(&link).await;
    };
    until_over(&fleet, serving, script).await;
}

#[tokio::test]
async fn a_busy_service_is_asked_again_and_a_refusal_that_stays_ends_the_serving() {
    let (fleet, _link, jobs, mut service, _) = set_up().await;
    let serving = jobs.serve(|_| async { JobOutcome::Succeeded(JobDetails::new()) });
    let script = async {
        let asked = service.expect("start-next").await;
        let body = json!({"code": "RequestThrottled", "message": "slowly"});
        service.answer("start-next/rejected", &asked, body);
        let asked = service.expect("start-next").await;
        let body = json!({"code": "InvalidRequest", "message": "never"});
        service.answer("start-next/rejected", &asked, body);
    };
    let (result, ()) = soon("it is over", async { tokio::join!(serving, script) }).await;
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(&JobsErrorCode::InvalidRequest));
    drain(&fleet).await;
}

#[tokio::test]
async fn streams_tell_what_is_pending_and_what_is_next() {
    let (fleet, _link, jobs, service, _) = set_up().await;
    let mut pending = jobs.notify().await.unwrap();
    let mut next = jobs.notify_next().await.unwrap();
    pending.ready().await.unwrap();
    next.ready().await.unwrap();
    service.tell("notify", &json!("nonsense"));
    service.tell(
        "notify",
        &json!({"jobs": {"QUEUED": [{"jobId": "a"}, {"jobId": "b"}]}}),
    );
    service.tell("notify-next", &json!({"execution": execution("a", 1)}));
    service.tell("notify-next", &json!({"timestamp": 1}));
    let jobs = soon("it is told", pending.next()).await.unwrap();
    assert_eq!(jobs.queued.len(), 2);
    let head = soon("it is told", next.next()).await.unwrap().unwrap();
    assert_eq!(head.job_id, "a");
    assert_eq!(soon("it is told", next.next()).await.unwrap(), None);
    drain(&fleet).await;
}
