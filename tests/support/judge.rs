//! The independent judge of a run: a `mosquitto_sub` in a process of its own, with a session that the broker keeps,
//! that writes down the number of each message. Nothing of ours is between it and the broker.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Endpoint, Subscriber, off_the_runtime, publish_soon};

/// The numbers that came on each topic, in the order in which they came.
type Numbers = BTreeMap<String, Vec<u64>>;

/// How long the judge hears nothing before it is taken to have heard everything.
const QUIET: Duration = Duration::from_millis(300);

/// A level of topics whose messages only show that the judge is there.
pub(crate) const PROBE: &str = "probe";

/// A running judge. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Judge {
    heard: Arc<Mutex<Heard>>,
    over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Heard {
    numbers: Numbers,
    /// What was no number.
    strange: u64,
    probes: u64,
    last: Instant,
}

/// What was published: on each topic the numbers from 0 on, so many, at this quality of service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(BTreeMap<String, (u8, u64)>);

/// What the judge says of the messages of one quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Numbers that never came.
    pub(crate) lost: u64,
    /// Times that a number came again.
    pub(crate) doubled: u64,
    /// First comings of a number after that of a higher one.
    pub(crate) disordered: u64,
    /// Numbers that nobody sent.
    pub(crate) foreign: u64,
}

impl Sent {
    /// One more on this topic; gives its number.
    pub(crate) fn next(&mut self, topic: &str, qos: u8) -> u64 {
        let (_, count) = match self.0.get_mut(topic) {
            Some(entry) => entry,
            None => self.0.entry(topic.to_owned()).or_insert((qos, 0)),
        };
        *count += 1;
        *count - 1
    }

    /// Takes over what others sent on topics of their own.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many were sent at this quality of service.
    pub(crate) fn count(&self, qos: u8) -> u64 {
        let of_this = self.0.values().filter(|(at, _)| *at == qos);
        of_this.map(|(_, count)| count).sum()
    }
}

impl Judge {
    /// Subscribes to `filter` at `qos`, as the client `name`, and returns once the broker has confirmed it. It comes
    /// back by itself when the broker does.
    pub(crate) async fn start(endpoint: &Endpoint, name: &str, filter: &str, qos: u8) -> Self {
        let qos = qos.to_string();
        let arguments = ["-c", "-i", name, "-t", filter, "-q", &qos].map(str::to_owned);
        let endpoint = endpoint.clone();
        let subscriber = off_the_runtime(move || {
            Subscriber::start(&endpoint, &arguments.each_ref().map(String::as_str))
        })
        .await;
        Self::listen(subscriber)
    }

    fn listen(mut subscriber: Subscriber) -> Self {
        let heard = Arc::new(Mutex::new(Heard {
            numbers: Numbers::new(),
            strange: 0,
            probes: 0,
            last: Instant::now(),
        }));
        let over = Arc::new(AtomicBool::new(false));
        let (heard_there, over_there) = (Arc::clone(&heard), Arc::clone(&over));
        let listening = std::thread::spawn(move || {
            while !over_there.load(Ordering::Relaxed) {
                let Some(message) = subscriber.receive_within(Duration::from_millis(50)) else {
                    continue;
                };
                let number = std::str::from_utf8(&message.payload)
                    .ok()
                    .and_then(|text| text.split(' ').next()?.parse().ok());
                let mut heard = heard_there.lock().unwrap_or_else(PoisonError::into_inner);
                heard.last = Instant::now();
                match number {
                    _ if message.topic.split('/').any(|level| level == PROBE) => heard.probes += 1,
                    Some(number) => heard.numbers.entry(message.topic).or_default().push(number),
                    None => heard.strange += 1,
                }
            }
        });
        Self {
            heard,
            over,
            listening: Some(listening),
        }
    }

    /// How many messages came so far.
    pub(crate) fn received(&self) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.numbers.values().map(|all| all.len() as u64).sum()
    }

    /// The numbers that came on a topic so far, in the order in which they came.
    pub(crate) fn numbers(&self, topic: &str) -> Vec<u64> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.numbers.get(topic).cloned().unwrap_or_default()
    }

    /// Waits until it hears what a foreign client sends to `topic`, which is to have the level [`PROBE`]: after the broker came
    /// back, until it is subscribed again.
    ///
    /// # Panics
    ///
    /// When it hears nothing within 20 seconds.
    pub(crate) async fn hears(&self, endpoint: &Endpoint, topic: &str) {
        let before = self.probes();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.probes() == before {
            assert!(Instant::now() < deadline, "the judge did not come back");
            publish_soon(endpoint, &["-t", topic, "-m", "0", "-q", "1"]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn probes(&self) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.probes
    }

    /// Waits until all of QoS 1 and 2 is there or `limit` has passed, and until nothing more comes; then judges
    /// each quality of service. A message that is missing then is lost.
    pub(crate) async fn verdicts(&self, sent: &Sent, limit: Duration) -> [Verdict; 3] {
        let deadline = Instant::now() + limit;
        loop {
            let (verdicts, last) = self.verdicts_now(sent);
            let lost = verdicts[1].lost + verdicts[2].lost;
            if (lost == 0 && last.elapsed() > QUIET) || Instant::now() > deadline {
                return verdicts;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn verdicts_now(&self, sent: &Sent) -> ([Verdict; 3], Instant) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdicts = [Verdict::default(); 3];
        verdicts[0].foreign = heard.strange;
        for (topic, (qos, count)) in &sent.0 {
            let numbers = heard.numbers.get(topic).map_or(&[][..], Vec::as_slice);
            verdicts[usize::from(*qos)].add(numbers, *count);
        }
        let unknown = heard.numbers.iter();
        for (_, numbers) in unknown.filter(|(topic, _)| !sent.0.contains_key(*topic)) {
            verdicts[0].foreign += numbers.len() as u64;
        }
        (verdicts, heard.last)
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            // Its panic has been reported already.
            let _ = listening.join();
        }
    }
}

impl Verdict {
    /// Adds the numbers of one topic, on which `count` were sent.
    pub(crate) fn add(&mut self, numbers: &[u64], count: u64) {
        let mut seen = HashSet::new();
        let mut highest = None;
        for &number in numbers {
            if number >= count {
                self.foreign += 1;
            } else if !seen.insert(number) {
                self.doubled += 1;
            } else if highest > Some(number) {
                self.disordered += 1;
            } else {
                highest = Some(number);
            }
        }
        self.sent += count;
        self.received += numbers.len() as u64;
        self.lost += count - seen.len() as u64;
    }

    /// What QoS 0 promises: some may be missing, none comes twice, and those that come keep their order.
    pub(crate) const fn holds_at_most_once(&self) -> bool {
        self.doubled == 0 && self.disordered == 0 && self.foreign == 0
    }

    /// What QoS 1 promises: none is missing, and first comings keep their order.
    pub(crate) const fn holds_at_least_once(&self) -> bool {
        self.lost == 0 && self.disordered == 0 && self.foreign == 0
    }

    /// What QoS 2 promises.
    pub(crate) const fn holds_exactly_once(&self) -> bool {
        self.holds_at_least_once() && self.doubled == 0
    }
}

/// Fails the test unless each quality of service kept its promise.
#[track_caller]
pub(crate) fn assert_promises(verdicts: &[Verdict; 3]) {
    assert!(verdicts[0].holds_at_most_once(), "QoS 0: {:?}", verdicts[0]);
    assert!(
        verdicts[1].holds_at_least_once(),
        "QoS 1: {:?}",
        verdicts[1]
    );
    assert!(verdicts[2].holds_exactly_once(), "QoS 2: {:?}", verdicts[2]);
}
