//! Where the links of a group connect to, and over what.

use std::sync::Arc;

use paquebot_actors::{
    ClientCertificate, Endpoint, PipeConnector, Scheme, Target, TlsConfig, TrustAnchors, Upgrade,
    UpgradeError, UpgradeRequest, WebSocketTarget,
};
use secrecy::SecretString;

use super::GroupError;

/// The settings of a group that say where its links connect to.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetSettings {
    pub(super) place: Option<Place>,
    pub(super) anchors: TrustAnchors,
    pub(super) certificate: Option<ClientCertificate>,
    pub(super) alpn: Vec<String>,
    pub(super) server_name: Option<String>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) websocket_headers: Vec<Header>,
}

/// Name and value.
type Header = (String, SecretString);

#[derive(Clone)]
pub(super) enum Place {
    Url(String),
    Pipe(PipeConnector),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Url(_) => "endpoint",
            Self::Pipe(_) => "pipe",
        })
    }
}

impl TargetSettings {
    /// Checks that they fit together, and loads the files.
    pub(super) fn load(&self) -> Result<Target, GroupError> {
        match self.place.clone().ok_or(GroupError::MissingEndpoint)? {
            Place::Pipe(connector) => Ok(Target::Pipe(connector)),
            Place::Url(url) => {
                let (scheme, endpoint, path) = Endpoint::parse_with_path(&url)?;
                self.target(scheme, endpoint, path)
            }
        }
    }

    fn target(&self, scheme: Scheme, endpoint: Endpoint, path: &str) -> Result<Target, GroupError> {
        let tls = self.tls(scheme)?;
        if scheme.is_websocket() {
            let upgrade = self.upgrade(path)?;
            return Ok(Target::WebSocket(Box::new(WebSocketTarget {
                endpoint,
                tls,
                upgrade,
            })));
        }
        if self.upgrade.is_some() || !self.websocket_headers.is_empty() {
            return Err(GroupError::WebSocketWithoutWebSocket);
        }
        Ok(match tls {
            Some(tls) => Target::Tls(endpoint, tls),
            None => Target::Tcp(endpoint),
        })
    }

    fn tls(&self, scheme: Scheme) -> Result<Option<TlsConfig>, GroupError> {
        if scheme.is_tls() {
            let alpn: Vec<&str> = self.alpn.iter().map(String::as_str).collect();
            let config = TlsConfig::load(
                &self.anchors,
                self.certificate.as_ref(),
                &alpn,
                self.server_name.as_deref(),
            )?;
            return Ok(Some(config));
        }
        let has_tls = self.anchors != TrustAnchors::System
            || self.certificate.is_some()
            || self.server_name.is_some()
            || !self.alpn.is_empty();
        if has_tls {
            return Err(GroupError::TlsWithoutTls);
        }
        Ok(None)
    }

    /// Where the request comes from, with the headers that were set.
    fn upgrade(&self, path: &str) -> Result<Upgrade, UpgradeError> {
        let Some(upgrade) = &self.upgrade else {
            let request = with_headers(UpgradeRequest::new(path)?, &self.websocket_headers)?;
            return Ok(Upgrade::Fixed(Arc::new(request)));
        };
        if self.websocket_headers.is_empty() {
            return Ok(upgrade.clone());
        }
        // A header that is none shows now, and not at the first attempt.
        with_headers(UpgradeRequest::new("/")?, &self.websocket_headers)?;
        let headers: Arc<[_]> = self.websocket_headers.as_slice().into();
        let provider = match upgrade {
            Upgrade::Fixed(request) => {
                let request = UpgradeRequest::clone(request);
                return Ok(Upgrade::Fixed(Arc::new(add_headers(request, &headers)?)));
            }
            Upgrade::Provider(provider) => Arc::clone(provider),
        };
        if headers.iter().any(|(name, _)| is_of_signature(name)) {
            return Err(UpgradeError::HeaderName);
        }
        Ok(Upgrade::Provider(Arc::new(move || {
            let (request, headers) = (provider(), Arc::clone(&headers));
            Box::pin(async move { add_headers(request.await?, &headers) })
        })))
    }
}

/// Names by which a server takes a request for signed or for that of an authorizer.
fn is_of_signature(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "authorization" || name.starts_with("x-amz-")
}

/// Adds headers to a request that somebody else made; none of theirs is doubled.
fn add_headers(
    request: UpgradeRequest,
    headers: &[Header],
) -> Result<UpgradeRequest, UpgradeError> {
    if headers.iter().any(|(name, _)| request.has_header(name)) {
        return Err(UpgradeError::HeaderName);
    }
    with_headers(request, headers)
}

fn with_headers(
    request: UpgradeRequest,
    headers: &[Header],
) -> Result<UpgradeRequest, UpgradeError> {
    headers.iter().try_fold(request, |request, (name, value)| {
        request.header(name, value.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn at(url: &str) -> TargetSettings {
        TargetSettings {
            place: Some(Place::Url(url.to_owned())),
            ..TargetSettings::default()
        }
    }

    #[test]
    fn without_a_place_there_is_no_target() {
        let loaded = TargetSettings::default().load();
        assert!(matches!(loaded, Err(GroupError::MissingEndpoint)));
    }

    #[test]
    fn the_scheme_says_what_is_connected_over() {
        for (url, target) in [
            ("mqtt://127.0.0.1", "mqtt://127.0.0.1:1883"),
            ("ws://127.0.0.1", "ws://127.0.0.1:80"),
        ] {
            assert_eq!(format!("{:?}", at(url).load().unwrap()), target);
        }
        let pipe: PipeConnector = Arc::new(|| Err(io::ErrorKind::ConnectionRefused.into()));
        let settings = TargetSettings {
            place: Some(Place::Pipe(pipe)),
            ..TargetSettings::default()
        };
        assert!(matches!(settings.load(), Ok(Target::Pipe(_))));
        assert!(matches!(
            at("http://127.0.0.1").load(),
            Err(GroupError::Endpoint(_))
        ));
    }

    #[test]
    fn tls_settings_need_tls() {
        let certificate = ClientCertificate {
            certificate: "device.pem".into(),
            key: "device.key".into(),
        };
        for settings in [
            TargetSettings {
                anchors: TrustAnchors::File("ca.pem".into()),
                ..at("mqtt://127.0.0.1")
            },
            TargetSettings {
                certificate: Some(certificate),
                ..at("ws://127.0.0.1")
            },
            TargetSettings {
                alpn: vec!["mqtt".to_owned()],
                ..at("mqtt://127.0.0.1")
            },
            TargetSettings {
                server_name: Some("broker.example".to_owned()),
                ..at("mqtt://127.0.0.1")
            },
        ] {
            assert!(matches!(settings.load(), Err(GroupError::TlsWithoutTls)));
        }
    }

    #[test]
    fn websocket_settings_need_a_websocket_and_fit_into_a_request() {
        let loaded = |url: &str, name: &str, value: &str| {
            let websocket_headers = vec![(name.to_owned(), value.into())];
            let settings = TargetSettings {
                websocket_headers,
                ..at(url)
            };
            settings.load()
        };
        assert!(loaded("ws://127.0.0.1:1/mqtt", "X-Token", "t").is_ok());
        assert!(matches!(
            loaded("mqtt://127.0.0.1:1", "X-Token", "t"),
            Err(GroupError::WebSocketWithoutWebSocket)
        ));
        assert!(matches!(
            loaded("ws://127.0.0.1:1", "Host", "t"),
            Err(GroupError::Upgrade(UpgradeError::HeaderName))
        ));
        let error = loaded("ws://127.0.0.1:1", "X-Token", "canary\r\n").unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(loaded("ws://127.0.0.1:1/a b", "X", "t").is_err());
        let request = UpgradeRequest::new("/mqtt").unwrap();
        let settings = TargetSettings {
            upgrade: Some(Upgrade::Fixed(Arc::new(request))),
            ..at("mqtt://127.0.0.1:1")
        };
        assert!(matches!(
            settings.load(),
            Err(GroupError::WebSocketWithoutWebSocket)
        ));
    }

    #[tokio::test]
    async fn headers_are_added_to_the_request_of_a_provider_and_double_none_of_its_own() {
        let settings = |name: &str, value: &str| TargetSettings {
            upgrade: Some(Upgrade::Provider(Arc::new(|| {
                let request = UpgradeRequest::new("/signed").unwrap();
                Box::pin(std::future::ready(request.header("X-Own", "1")))
            }))),
            websocket_headers: vec![(name.to_owned(), value.into())],
            ..at("wss://127.0.0.1:1")
        };
        let request = async |name: &str| {
            let Upgrade::Provider(provider) = settings(name, "t").upgrade("/").unwrap() else {
                panic!("it is no provider any more");
            };
            provider().await
        };
        let signed = request("X-Token").await.unwrap();
        assert!(signed.has_header("x-token") && signed.has_header("X-OWN"));
        assert!(matches!(
            request("x-own").await,
            Err(UpgradeError::HeaderName)
        ));
        for (name, value) in [
            ("Host", "t"),
            ("X-Token", "\r"),
            ("X-Amz-Date", "t"),
            ("authorization", "t"),
        ] {
            let loaded = settings(name, value).load();
            assert!(matches!(loaded, Err(GroupError::Upgrade(_))), "{name}");
        }
    }
}
