//! HTTP/1.1 of the endpoints: the WebSocket upgrade, publishing, and the services' REST interface.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use paquebot_protocols::mqtt::{Properties, Publish, QoS, Topic, Version};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

mod answer;

pub(crate) use answer::Refusal;
use answer::{Answer, json_answer};

use super::backend::SharedServices;
use super::control::{self, create_job, create_thing, created};
use super::identities::Identities;
use super::permissions::Action;
use super::rules::Rules;
use super::services::{HttpRequest, Services};
use super::signature::{Signed, parse_query, unescape};
use super::upgrade::{self, text_of};
use crate::connection::{Accepted, serve};
use crate::first_bytes::Spoken;
use crate::policy::{Client, Peer, Policy, Verdict};
use crate::remarks::{Explanation, Quoted, Who};
use crate::shared::Shared;
use crate::websocket::WebSocketBytes;

/// Bytes of a request's body that are read at all; the rules refuse smaller ones already.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// How long a client may take over the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What every HTTP connection is served with.
#[derive(Debug)]
pub(crate) struct HttpFront {
    pub(crate) rules: Arc<Rules>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) services: SharedServices,
    /// How long a WebSocket lasts.
    pub(crate) websocket_lifetime: Duration,
}

/// Serves the requests of one connection.
pub(crate) async fn serve_http<S>(front: Arc<HttpFront>, stream: S, peer: Peer, accepted: Accepted)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Accepted {
        shared,
        mut stopping,
        deadline,
        ..
    } = accepted;
    let opened = tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => return,
        opened = tokio::time::timeout_at(deadline, open(stream, &peer, &shared)) => opened,
    };
    // One that says nothing at all is let go without a word.
    let Ok(Some(stream)) = opened else { return };
    let service = service_fn(move |request| {
        let exchange = Exchange {
            front: Arc::clone(&front),
            shared: Arc::clone(&shared),
            peer: peer.clone(),
        };
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "an HTTP connection failed");
            }
        }
    }
}

/// Looks at the first bytes behind the TLS handshake: clients that forget the application protocol speak
/// MQTT here, and could not read an answer in HTTP.
async fn open<S>(
    mut stream: S,
    peer: &Peer,
    shared: &Shared,
) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut first = BytesMut::with_capacity(64);
    stream.read_buf(&mut first).await.ok()?;
    if matches!(Spoken::of(&first), Spoken::Mqtt | Spoken::Mqtt31) {
        let why = Explanation::new(
            "AWS: MQTT is on port 8883, or on port 443 with the application protocol x-amzn-mqtt-ca (ALPN)",
            "it speaks MQTT where HTTPS and WebSockets are",
        );
        let remarks = &shared.remarks;
        remarks.warn(&Who::peer(peer), "its connection is closed", &why);
        return None;
    }
    let (reader, writer) = tokio::io::split(stream);
    let reader = Cursor::new(first.freeze()).chain(reader);
    Some(tokio::io::join(reader, writer))
}

struct Exchange {
    front: Arc<HttpFront>,
    shared: Arc<Shared>,
    peer: Peer,
}

impl Exchange {
    async fn answer(self, request: Request<Incoming>) -> Answer {
        let is_upgrade = request.uri().path() == "/mqtt";
        let (shared, front) = (Arc::clone(&self.shared), Arc::clone(&self.front));
        let peer = self.peer.clone();
        let what = format!("{} {}", request.method(), Quoted(request.uri().path()));
        let outcome = if is_upgrade {
            self.upgrade(request)
        } else {
            self.request(request).await
        };
        outcome.unwrap_or_else(|refusal| {
            if let Some(why) = &refusal.why {
                let mut who = Who::peer(&peer);
                let principal = peer.principal.as_deref();
                who.principal = match &refusal.key_id {
                    Some(key_id) => Some(format!("access key {}", Quoted(key_id)).into()),
                    None => principal.map(|principal| front.rules.describe(principal)),
                };
                let status = refusal.status.as_u16();
                shared
                    .remarks
                    .tell(&who, format!("{what} is refused with {status}"), why);
            }
            refusal.answer()
        })
    }

    /// Switches to MQTT over WebSocket.
    fn upgrade(self, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
        let protocol = upgrade::check(&request).map_err(|refusal| {
            let text = refusal.message.clone();
            refusal.because(Explanation::new("AWS: MQTT over WebSocket at /mqtt", text))
        })?;
        let principal = self.authenticate(&request)?;
        let response = upgrade::response(request.headers(), protocol)?;
        let upgraded = hyper::upgrade::on(&mut request);
        let peer = Arc::new(Peer {
            principal,
            lifetime: Some(self.front.websocket_lifetime),
            ..self.peer
        });
        // From here on it counts as a connection of its own.
        let accepted = Accepted::now(&self.shared).ok_or(Refusal::UNAVAILABLE)?;
        tokio::spawn(async move {
            match upgraded.await {
                Ok(stream) => {
                    let stream = WebSocketBytes::new(TokioIo::new(stream)).await;
                    serve(Box::new(stream), peer, accepted).await;
                }
                Err(error) => tracing::debug!(%error, "a WebSocket upgrade failed"),
            }
        });
        Ok(response)
    }

    /// Who wants to upgrade; `None` where CONNECT is to say it.
    fn authenticate(&self, request: &Request<Incoming>) -> Result<Option<Arc<str>>, Refusal> {
        let query = request.uri().query().unwrap_or_default();
        let pairs = parse_query(query);
        let find = |name: &str| {
            let in_query = pairs.iter().find(|(key, _)| key == name);
            in_query
                .map(|(_, value)| value.clone())
                .or_else(|| text_of(request.headers(), name).map(unescape))
        };
        if let Some(authorized) = self.front.identities.authorize_upgrade(&find) {
            let name = authorized.map_err(|why| {
                Refusal::FORBIDDEN.because(Explanation::new("AWS: custom authorizer", why))
            })?;
            return Ok(Some(name.into()));
        }
        let is_signed =
            query.contains("X-Amz-") || request.headers().contains_key(header::AUTHORIZATION);
        if is_signed {
            return self.signer(request, &[]).map(Some);
        }
        Ok(None)
    }

    fn signer(&self, request: &Request<impl Sized>, body: &[u8]) -> Result<Arc<str>, Refusal> {
        let headers = request.headers();
        let find = |name: &str| text_of(headers, name);
        let signed = Signed {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            header: &find,
            body,
        };
        let region = &self.front.rules.region;
        let signer = self.front.identities.signer(&signed, region);
        signer.map(Into::into).map_err(|mistake| Refusal {
            status: StatusCode::FORBIDDEN,
            message: capitalized(&mistake.error.to_string()),
            key_id: mistake.key_id,
            why: Some(Explanation::new(mistake.error.rule(), mistake.detail)),
        })
    }

    async fn request(self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large"))?
            .to_bytes();
        let request = Request::from_parts(parts, ());
        let principal = match &self.peer.principal {
            Some(certificate) => Arc::clone(certificate),
            None if request.headers().contains_key(header::AUTHORIZATION) => {
                self.signer(&request, &body)?
            }
            None => {
                let why = Explanation::new(
                    "AWS: a client certificate or Signature Version 4 with HTTPS",
                    "it has neither a certificate nor a signature in the header Authorization",
                );
                return Err(Refusal::FORBIDDEN.because(why));
            }
        };
        let path = request.uri().path();
        if let Some(topic) = path.strip_prefix("/topics/") {
            let topic = unescape(topic);
            return self.publish(&request, &principal, &topic, body);
        }
        if let Some((status, body)) = self.control(request.method(), path, &body) {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            return Ok(json_answer(status, &body));
        }
        let asked = HttpRequest {
            method: request.method().to_string(),
            path: path.to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            body,
            principal: Some(principal.to_string()),
        };
        let answered = self.front.services.request(&self.shared, &asked);
        let mut response = Response::new(Full::new(answered.body));
        *response.status_mut() =
            StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(answered.content_type),
        );
        Ok(response)
    }

    /// What an operator asks for; `None` of what devices ask for.
    fn control(
        &self,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Option<(u16, serde_json::Value)> {
        let front = &self.front;
        let region = &front.rules.region;
        if *method == Method::GET {
            return control::look(&front.services.lock(), &front.rules.names, region, path);
        }
        let thing = path.strip_prefix("/things/");
        // What is deeper belongs to a thing's shadow and jobs.
        if let Some(thing) = thing.filter(|name| *method == Method::POST && !name.contains('/')) {
            let thing = unescape(thing);
            return Some(create_thing(&mut front.services.lock(), &thing, region));
        }
        let job_id = path
            .strip_prefix("/jobs/")
            .filter(|_| *method == Method::PUT)?;
        let make = |services: &mut Services, now| create_job(services, job_id, body, now);
        let made = front.services.tell(&self.shared, make);
        Some(made.map_or_else(|refused| refused, |()| created(job_id, region)))
    }

    /// `POST /topics/<topic>?qos=`.
    fn publish(
        &self,
        request: &Request<()>,
        principal: &str,
        topic: &str,
        payload: Bytes,
    ) -> Result<Answer, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed",
            ));
        }
        let bad = |message| Refusal::new(StatusCode::BAD_REQUEST, message);
        let pairs = parse_query(request.uri().query().unwrap_or_default());
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name);
        let qos = match find("qos").map(|(_, value)| value.as_str()) {
            None | Some("0") => QoS::AtMostOnce,
            Some("1") => QoS::AtLeastOnce,
            Some(_) => return Err(bad("Invalid QoS")),
        };
        let retain = find("retain").is_some_and(|(_, value)| value == "true");
        let topic = Topic::new(topic).map_err(|_| bad("Invalid topic"))?;
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic: None,
            packet_id: None,
            payload: payload.clone(),
            properties: Properties::EMPTY,
        };
        let client = Client {
            client_id: "",
            principal: Some(principal),
            version: Version::V5,
        };
        let rules = &self.front.rules;
        let action = Action::Publish(topic.as_str());
        if !rules.permissions.allows(Some(principal), "", action) {
            let why = rules.denial(Some(principal), "", action);
            return Err(Refusal::FORBIDDEN.because(why));
        }
        if payload.len() > rules.settings.payload_bytes_max {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Payload too large",
            ));
        }
        if rules.judge_publish(&client, &topic, &publish) != Verdict::Allow {
            return Err(bad("Invalid topic"));
        }
        self.shared
            .turn(|state, now| state.publish_for(principal, &topic, &publish, now));
        let trace = format!("{:032x}", fastrand::u128(..));
        let body = json!({"message": "OK", "traceId": trace});
        Ok(json_answer(StatusCode::OK, &body))
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}
