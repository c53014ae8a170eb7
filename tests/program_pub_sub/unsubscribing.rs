//! `paquebot sub -U`: filters are taken out of a session that the server has kept.

use paquebot_emulator::{Broker, BrokerThread};

use crate::support::client::Endpoint;
use crate::support::exchange::{Ran, Subscriber, arguments, publish, run};

struct Scene {
    broker: BrokerThread,
    endpoint: Endpoint,
}

impl Scene {
    /// A session that has these filters and no client.
    fn with_session(version: &str, filters: &[&str]) -> Self {
        let builder = Broker::builder().tcp(([127, 0, 0, 1], 0));
        let broker = builder.start_on_thread().unwrap();
        let endpoint = Endpoint::new(broker.tcp_address().unwrap().port());
        let scene = Self { broker, endpoint };
        let mut more = vec!["-E"];
        more.extend(filters.iter().flat_map(|filter| ["-t", filter]));
        let ran = scene.sub(version, &more);
        assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
        assert_eq!(scene.filters(), filters);
        scene
    }

    fn sub(&self, version: &str, more: &[&str]) -> Ran {
        let session = ["-c", "-i", "keeper", "-V", version, "-W", "20"];
        run(
            &arguments("sub", &self.endpoint, &[&session[..], more].concat()),
            b"",
        )
    }

    fn filters(&self) -> Vec<String> {
        let client = self.broker.client("keeper").unwrap();
        let mut filters: Vec<_> = client.subscriptions.into_iter().map(|(f, _)| f).collect();
        filters.sort();
        filters
    }
}

#[test]
fn alone_it_ends_once_the_server_has_answered() {
    for version in ["311", "5"] {
        let scene = Scene::with_session(version, &["a", "b", "c/#"]);
        let ran = scene.sub(version, &["-U", "a", "-U", "c/#", "-U", "a"]);
        assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
        assert_eq!(scene.filters(), ["b"]);
        let ran = scene.sub(version, &["-U", "none"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        // MQTT 3.1.1 has no word for it.
        let is_told = ran
            .errors
            .contains("the session had no subscription to none");
        assert_eq!(is_told, version == "5", "{ran:?}");
        assert_eq!(scene.filters(), ["b"]);
    }
}

#[test]
fn beside_subscriptions_it_prints_what_they_bring() {
    for version in ["311", "5"] {
        let scene = Scene::with_session(version, &["a"]);
        let ran = scene.sub(version, &["-t", "b", "-U", "a", "-E"]);
        assert_eq!((ran.code, &*ran.errors), (Some(0), ""), "{ran:?}");
        assert_eq!(scene.filters(), ["b"]);
        let session = [
            "-c", "-i", "keeper", "-V", version, "-t", "c", "-U", "b", "-C", "1",
        ];
        let subscriber = Subscriber::start(&scene.endpoint, &session);
        publish(&scene.endpoint, &["-t", "c", "-m", "x", "-q", "1"]);
        assert_eq!(subscriber.printed(), "x\n");
        assert_eq!(scene.filters(), ["c"]);
    }
}

#[test]
fn a_session_that_the_server_has_not_kept_is_said_to_be_absent() {
    for version in ["311", "5"] {
        let scene = Scene::with_session(version, &["a"]);
        let nobody = ["-c", "-i", "new", "-V", version, "-W", "20", "-U", "a"];
        let ran = run(&arguments("sub", &scene.endpoint, &nobody), b"");
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.errors.contains("has kept no session"), "{ran:?}");
    }
}

#[test]
fn what_makes_no_sense_is_a_mistake() {
    let nobody = Endpoint::new(1);
    for (more, words) in [
        (&["-U", "a"][..], "name it with -c and -i"),
        (&["-U", "a", "-t", "b"], "name it with -c and -i"),
        (
            &["-c", "-i", "k", "-U", "a", "-t", "a"],
            "a is both subscribed (-t) and unsubscribed (-U)",
        ),
        (&["-c", "-i", "k", "-U", "a#"], "-U"),
    ] {
        let ran = run(&arguments("sub", &nobody, more), b"");
        assert_eq!(ran.code, Some(2), "{more:?}: {ran:?}");
        assert!(ran.errors.contains(words), "{more:?}: {ran:?}");
    }
}
