//! What answers in the place of AWS's Device Shadow service: a client of any broker, on a thread of its own, with another
//! codec than ours. Written from the AWS IoT Developer Guide (*Device Shadow service documents*), not from the dialect.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mqttrs::{
    Connect, Packet, Pid, Protocol, Publish, QoS, QosPid, Subscribe, SubscribeTopic, decode_slice,
    encode_slice,
};
use serde_json::{Map, Value, json};

/// How the service misbehaves.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It carries requests out and says nothing.
    Mute,
    /// It refuses everything.
    Refuse(u32, &'static str),
    /// It answers each request twice, the answer before the delta, after one that nobody asked for.
    Noisy,
    /// Its answers are no JSON.
    Garbled,
    /// Before each update somebody else makes one, so many times.
    Rival(usize),
}

#[derive(Debug, Clone, Default)]
struct Document {
    desired: Map<String, Value>,
    reported: Map<String, Value>,
    version: u64,
}

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    documents: HashMap<String, Document>,
    /// The version of the last document of a name that was deleted.
    deleted: HashMap<String, u64>,
    /// What devices asked for: topic and body.
    requests: Vec<(String, Value)>,
    held: Vec<(String, Value)>,
}

/// The service. It ends when dropped.
#[derive(Debug)]
pub(crate) struct ShadowService {
    state: Arc<Mutex<State>>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl ShadowService {
    /// Connects to a broker; returns once its subscriptions are in force. Blocks.
    ///
    /// # Panics
    ///
    /// When the broker does not take it.
    pub(crate) fn start(broker: SocketAddr) -> Self {
        let stream = TcpStream::connect(broker).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let connect = Packet::Connect(Connect {
            protocol: Protocol::MQTT311,
            keep_alive: 0,
            client_id: "shadow-service",
            clean_session: true,
            last_will: None,
            username: None,
            password: None,
        });
        write(&stream, &connect);
        let mut frames = Frames::new(stream.try_clone().unwrap());
        frames.next().unwrap();
        let topics = ["get", "update", "delete"].into_iter().flat_map(|end| {
            [
                format!("$aws/things/+/shadow/{end}"),
                format!("$aws/things/+/shadow/name/+/{end}"),
            ]
        });
        let topics = topics.map(|topic_path| SubscribeTopic {
            topic_path,
            qos: QoS::AtLeastOnce,
        });
        let subscribe = Subscribe::new(Pid::try_from(1).unwrap(), topics.collect());
        write(&stream, &Packet::Subscribe(subscribe));
        frames.next().unwrap();
        frames.stream.set_read_timeout(None).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, socket) = (Arc::clone(&state), stream.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            while let Some(frame) = frames.next() {
                let Ok(Some(Packet::Publish(publish))) = decode_slice(&frame) else {
                    continue;
                };
                if let QosPid::AtLeastOnce(pid) = publish.qospid {
                    write(&socket, &Packet::Puback(pid));
                }
                let said = lock(&shared).request(publish.topic_name, publish.payload);
                for (topic, body) in said {
                    tell(&socket, &topic, body.to_string().as_bytes());
                }
            }
        });
        Self {
            state,
            stream,
            thread: Some(thread),
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        lock(&self.state).fault = fault;
    }

    /// What devices asked for so far, by the end of the topic.
    pub(crate) fn requests(&self, end: &str) -> Vec<Value> {
        let state = lock(&self.state);
        let of_end = state
            .requests
            .iter()
            .filter(|(topic, _)| topic.ends_with(end));
        of_end.map(|(_, body)| body.clone()).collect()
    }

    /// An application asks for a state.
    pub(crate) fn desire(&self, prefix: &str, desired: &Value) {
        self.act(prefix, "update", &json!({"state": {"desired": desired}}));
    }

    /// An application deletes a document.
    pub(crate) fn delete(&self, prefix: &str) {
        self.act(prefix, "delete", &json!({}));
    }

    fn act(&self, prefix: &str, end: &str, body: &Value) {
        let said = lock(&self.state).carry_out(prefix, end, body);
        for (topic, body) in said {
            tell(&self.stream, &topic, body.to_string().as_bytes());
        }
    }

    /// Versions start anew, as they do long after a deletion.
    pub(crate) fn forget_deleted(&self) {
        lock(&self.state).deleted.clear();
    }

    /// What a document holds: desired, reported, version.
    pub(crate) fn document(&self, prefix: &str) -> Option<(Value, Value, u64)> {
        let state = lock(&self.state);
        let document = state.documents.get(prefix)?.clone();
        Some((
            Value::Object(document.desired),
            Value::Object(document.reported),
            document.version,
        ))
    }

    /// Says what a mute service did not say, late.
    pub(crate) fn say_held(&self) {
        let held = std::mem::take(&mut lock(&self.state).held);
        for (topic, body) in held {
            tell(&self.stream, &topic, body.to_string().as_bytes());
        }
    }

    /// Says anything.
    pub(crate) fn say(&self, topic: &str, payload: &[u8]) {
        tell(&self.stream, topic, payload);
    }
}

impl Drop for ShadowService {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn request(&mut self, topic: &str, payload: &[u8]) -> Vec<(String, Value)> {
        let Some((prefix, end)) = topic.rsplit_once('/') else {
            return Vec::new();
        };
        let body: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
        self.requests.push((topic.to_owned(), body.clone()));
        match self.fault.clone() {
            Fault::Refuse(code, message) => {
                let mut refusal = json!({"code": code, "message": message, "timestamp": 1});
                echo_token(&mut refusal, &body);
                vec![(format!("{topic}/rejected"), refusal)]
            }
            Fault::Mute => {
                let said = self.carry_out(prefix, end, &body);
                self.held.extend(said);
                Vec::new()
            }
            Fault::Garbled => vec![(format!("{topic}/accepted"), json!("no document"))],
            Fault::Noisy => {
                let mut said = self.carry_out(prefix, end, &body);
                said.reverse();
                let foreign = json!({"version": 1, "clientToken": "somebody-else"});
                let mut all = vec![(format!("{topic}/accepted"), foreign)];
                all.extend(said.clone());
                all.extend(said);
                all
            }
            Fault::Rival(times) => {
                let mut said = Vec::new();
                if end == "update" && times > 0 {
                    self.fault = Fault::Rival(times - 1);
                    let rival = json!({"state": {"desired": {"rival": times}}});
                    said = self.carry_out(prefix, "update", &rival);
                }
                said.extend(self.carry_out(prefix, end, &body));
                said
            }
            Fault::None => self.carry_out(prefix, end, &body),
        }
    }

    fn carry_out(&mut self, prefix: &str, end: &str, body: &Value) -> Vec<(String, Value)> {
        let (accepted, rejected) = (
            format!("{prefix}/{end}/accepted"),
            format!("{prefix}/{end}/rejected"),
        );
        let mut missing = json!({"code": 404, "message": "No shadow exists with name: 'it'"});
        echo_token(&mut missing, body);
        match end {
            "get" => {
                let Some(document) = self.documents.get(prefix) else {
                    return vec![(rejected, missing)];
                };
                let mut reply = document.json();
                echo_token(&mut reply, body);
                vec![(accepted, reply)]
            }
            "delete" => {
                let Some(document) = self.documents.remove(prefix) else {
                    return vec![(rejected, missing)];
                };
                self.deleted.insert(prefix.to_owned(), document.version);
                let mut reply = json!({"version": document.version, "timestamp": 1});
                echo_token(&mut reply, body);
                vec![(accepted, reply)]
            }
            _ => self.update(prefix, body, accepted, rejected),
        }
    }

    fn update(
        &mut self,
        prefix: &str,
        body: &Value,
        accepted: String,
        rejected: String,
    ) -> Vec<(String, Value)> {
        let before = self.documents.get(prefix).cloned();
        // A document that is made anew goes on where the deleted one's tombstone stands.
        let base = self.deleted.get(prefix).map_or(0, |version| version + 1);
        let mut document = before.clone().unwrap_or(Document {
            version: base,
            ..Document::default()
        });
        if body["version"].is_u64() && body["version"] != document.version {
            let mut conflict = json!({"code": 409, "message": "Version conflict"});
            echo_token(&mut conflict, body);
            return vec![(rejected, conflict)];
        }
        merge(&mut document.desired, &body["state"]["desired"]);
        merge(&mut document.reported, &body["state"]["reported"]);
        document.version += 1;
        let version = document.version;
        let mut reply = json!({"state": body["state"], "version": version, "timestamp": 1});
        echo_token(&mut reply, body);
        let delta = document.delta();
        let mut said = Vec::new();
        if !delta.is_empty() {
            let mut delta = json!({"state": delta, "version": version, "timestamp": 1});
            echo_token(&mut delta, body);
            said.push((format!("{prefix}/update/delta"), delta));
        }
        let change = json!({
            "previous": before.map(|document| document.json()),
            "current": document.json(),
            "timestamp": 1,
        });
        said.push((format!("{prefix}/update/documents"), change));
        said.push((accepted, reply));
        self.documents.insert(prefix.to_owned(), document);
        said
    }
}

impl Document {
    fn delta(&self) -> Map<String, Value> {
        let differs = |(key, value): &(&String, &Value)| self.reported.get(*key) != Some(*value);
        let differing = self.desired.iter().filter(differs);
        differing
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn json(&self) -> Value {
        let mut state = json!({"desired": self.desired, "reported": self.reported});
        let delta = self.delta();
        if !delta.is_empty() {
            state["delta"] = Value::Object(delta);
        }
        json!({"state": state, "metadata": {}, "version": self.version, "timestamp": 1})
    }
}

/// One level deep, which is all that the tests need.
fn merge(half: &mut Map<String, Value>, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        if value.is_null() {
            half.remove(key);
        } else {
            half.insert(key.clone(), value.clone());
        }
    }
}

fn echo_token(reply: &mut Value, request: &Value) {
    if let Some(token) = request.get("clientToken") {
        reply["clientToken"] = token.clone();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(stream: &TcpStream, topic: &str, payload: &[u8]) {
    let publish = Publish {
        dup: false,
        qospid: QosPid::AtMostOnce,
        retain: false,
        topic_name: topic,
        payload,
    };
    write(stream, &Packet::Publish(publish));
}

fn write(mut stream: &TcpStream, packet: &Packet<'_>) {
    let mut buffer = vec![0; 64 * 1024];
    let length = encode_slice(packet, &mut buffer).unwrap();
    // A broker that is gone ends the thread at its next read.
    let _ = stream.write_all(&buffer[..length]);
}

/// Whole packets of a stream.
struct Frames {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Frames {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// `None` once the stream has ended.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = frame_length(&self.read)
                && self.read.len() >= length
            {
                let rest = self.read.split_off(length);
                return Some(std::mem::replace(&mut self.read, rest));
            }
            let mut piece = [0; 4096];
            let count = self
                .stream
                .read(&mut piece)
                .ok()
                .filter(|count| *count > 0)?;
            self.read.extend_from_slice(&piece[..count]);
        }
    }
}

fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(length + place + 2);
        }
    }
    None
}
