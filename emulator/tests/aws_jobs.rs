//! The jobs service against a model that keeps a thing's executions in a list.

use std::time::{Duration, SystemTime};

use paquebot_emulator::aws::services::{Requester, ServiceSettings, Services};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const P: &str = "$aws/things/Bot/jobs";
const STATUSES: [&str; 4] = ["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"];

/// What happens to the jobs of a thing.
#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Cancel(usize, bool),
    StartNext(Option<u64>),
    /// A job's status, with an expected version that is off by so much, and a step's minutes or -1.
    Update(usize, &'static str, Option<i64>, Option<i64>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let job = 0..5_usize;
    let status = prop_oneof![3 => Just("IN_PROGRESS"), 2 => (0..4_usize).prop_map(|n| STATUSES[n])];
    let off = prop_oneof![3 => Just(None), 3 => Just(Some(0)), 1 => Just(Some(1))];
    let timeout = prop_oneof![3 => Just(None), 2 => (1..5_i64).prop_map(Some), 1 => Just(Some(-1))];
    prop_oneof![
        3 => job.clone().prop_map(Step::Create),
        1 => (job.clone(), any::<bool>()).prop_map(|(job, force)| Step::Cancel(job, force)),
        3 => proptest::option::of(1..5_u64).prop_map(Step::StartNext),
        4 => (job, status, off, timeout)
            .prop_map(|(job, status, off, timeout)| Step::Update(job, status, off, timeout)),
        2 => (0..4_u64).prop_map(Step::Wait),
    ]
}

/// An execution: its job, status and version, and the minute at which its step must end.
#[derive(Debug, Clone)]
struct Execution {
    job: usize,
    status: &'static str,
    version: i64,
    ends: Option<u64>,
}

impl Execution {
    fn is_pending(&self) -> bool {
        matches!(self.status, "QUEUED" | "IN_PROGRESS")
    }

    fn change(&mut self, status: &'static str) {
        self.status = status;
        self.version += 1;
        if status != "IN_PROGRESS" {
            self.ends = None;
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    executions: Vec<Execution>,
    /// The minute it is.
    now: u64,
}

impl Model {
    fn with(&self, status: &str) -> Vec<String> {
        let executions = self.executions.iter();
        let executions = executions.filter(|execution| execution.status == status);
        executions.map(|execution| id(execution.job)).collect()
    }

    fn next(&self) -> Option<String> {
        let order = [self.with("IN_PROGRESS"), self.with("QUEUED")].concat();
        order.first().cloned()
    }

    fn members(&self) -> Vec<String> {
        let mut members = [self.with("IN_PROGRESS"), self.with("QUEUED")].concat();
        members.sort();
        members
    }

    /// Whether the service must accept the step; what it does then is done.
    fn apply(&mut self, step: &Step) -> bool {
        let now = self.now;
        match *step {
            Step::Create(job) => {
                let is_new = self.find(job).is_none();
                if is_new {
                    self.executions.push(Execution {
                        job,
                        status: "QUEUED",
                        version: 1,
                        ends: None,
                    });
                }
                is_new
            }
            Step::Cancel(job, force) => {
                let Some(execution) = self.find(job) else {
                    return false;
                };
                let status = execution.status;
                if status == "QUEUED" || force && status == "IN_PROGRESS" {
                    execution.change("CANCELED");
                }
                true
            }
            Step::StartNext(timeout) => {
                let next = self.next();
                let next = self
                    .executions
                    .iter_mut()
                    .find(|one| Some(id(one.job)) == next);
                if let Some(execution) = next
                    && execution.status == "QUEUED"
                {
                    execution.change("IN_PROGRESS");
                    execution.ends = timeout.map(|minutes| now + minutes);
                }
                true
            }
            Step::Update(job, status, off, timeout) => {
                let execution = self.find(job);
                let Some(execution) = execution.filter(|_| off.is_none_or(|off| off == 0)) else {
                    return false;
                };
                if !execution.is_pending() {
                    return false;
                }
                execution.change(status);
                if status == "IN_PROGRESS"
                    && let Some(timeout) = timeout
                {
                    execution.ends = u64::try_from(timeout).ok().map(|minutes| now + minutes);
                }
                true
            }
            Step::Wait(minutes) => {
                self.now += minutes;
                for execution in &mut self.executions {
                    if execution.ends.is_some_and(|end| end <= self.now) {
                        execution.change("TIMED_OUT");
                    }
                }
                true
            }
        }
    }

    fn find(&mut self, job: usize) -> Option<&mut Execution> {
        self.executions
            .iter_mut()
            .find(|execution| execution.job == job)
    }
}

fn id(job: usize) -> String {
    format!("job{job}")
}

fn minute(minutes: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_mins(minutes)
}

/// Does a step to the service: whether it was accepted, and the events that came of it.
fn apply(
    services: &mut Services,
    step: &Step,
    version: Option<i64>,
    now: SystemTime,
) -> (bool, Vec<(String, Value)>) {
    let from = Requester::new("Bot");
    let mut ask = |topic: String, payload: Value| {
        let payload = payload.to_string();
        let topic = format!("{P}/{topic}");
        let found = services.handle_publish(&from, &topic, payload.as_bytes(), now);
        found.expect("a topic of the jobs service")
    };
    let published = match *step {
        Step::Create(job) => services.create_job(&id(job), &json!({}), &["Bot"], now),
        Step::Cancel(job, force) => services.cancel_job(&id(job), force, now),
        Step::StartNext(timeout) => {
            let payload = json!({"stepTimeoutInMinutes": timeout});
            Ok(ask("start-next".to_owned(), payload))
        }
        Step::Update(job, status, off, timeout) => {
            let expected = off.map(|off| version.unwrap_or(0) + off);
            let payload = json!({
                "status": status,
                "expectedVersion": expected,
                "stepTimeoutInMinutes": timeout,
            });
            Ok(ask(format!("{}/update", id(job)), payload))
        }
        Step::Wait(_) => Ok(services.handle_deadline(now)),
    };
    let Ok(published) = published else {
        return (false, Vec::new());
    };
    let mut is_accepted = true;
    let mut events = Vec::new();
    for publication in published {
        let topic = publication.topic.as_str();
        let end = topic.rsplit('/').next().unwrap_or_default();
        match end {
            "accepted" => {}
            "rejected" => is_accepted = false,
            _ => {
                let body = serde_json::from_slice(&publication.payload).unwrap();
                events.push((end.to_owned(), body));
            }
        }
    }
    (is_accepted, events)
}

fn ids(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|item| item["jobId"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut services = Services::new(ServiceSettings::default());
    let mut model = Model::default();
    for step in steps {
        let (members, next) = (model.members(), model.next());
        let version = match *step {
            Step::Update(job, ..) => model.find(job).map(|execution| execution.version),
            _ => None,
        };
        let must_be_accepted = model.apply(step);
        let now = minute(model.now);
        let (is_accepted, events) = apply(&mut services, step, version, now);
        prop_assert_eq!(is_accepted, must_be_accepted, "{:?}", step);

        let event = |name: &str| {
            let mut events = events.iter().filter(|(end, _)| end == name);
            (events.next().map(|(_, body)| body), events.count())
        };
        let (notify, more) = event("notify");
        prop_assert_eq!(more, 0);
        prop_assert_eq!(notify.is_some(), members != model.members(), "{:?}", step);
        if let Some(notify) = notify {
            for status in ["QUEUED", "IN_PROGRESS"] {
                prop_assert_eq!(ids(&notify["jobs"][status]), model.with(status));
            }
        }
        let (notify_next, more) = event("notify-next");
        prop_assert_eq!(more, 0);
        prop_assert_eq!(notify_next.is_some(), next != model.next(), "{:?}", step);
        if let Some(notify_next) = notify_next {
            let found = notify_next["execution"]["jobId"]
                .as_str()
                .map(str::to_owned);
            prop_assert_eq!(found, model.next());
        }

        let executions = services.job_executions("Bot");
        let found: Vec<_> = executions
            .iter()
            .map(|one| (one.job_id.clone(), one.status.as_str(), one.version_number))
            .collect();
        let expected: Vec<_> = model
            .executions
            .iter()
            .map(|one| (id(one.job), one.status, u64::try_from(one.version).unwrap()))
            .collect();
        prop_assert_eq!(found, expected);
        let ends = model.executions.iter().filter_map(|one| one.ends).min();
        prop_assert_eq!(services.deadline(), ends.map(minute));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn jobs_go_as_the_model_goes_and_their_changes_are_told_and_nothing_else(
        steps in vec(step(), 1..40)
    ) {
        check(&steps)?;
    }
}
