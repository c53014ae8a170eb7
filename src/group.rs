//! Groups: what links have in common, checked and loaded once.

use std::path::PathBuf;
use std::sync::Arc;

use bytestring::ByteString;
use paquebot_actors::store::Durability;
use paquebot_actors::{
    ClientCertificate, Credentials, GroupMetrics, LinkProfile, LinkSpec, Target,
};
use paquebot_protocols::dialect::{Dialect, DialectError, LinkIdentity};
use paquebot_protocols::model::{DeviceId, Role};
use paquebot_protocols::mqtt::Will;

use crate::aws;
use crate::fleet::{Fleet, StartError};
use crate::link::Link;
use crate::streams::Events;

mod builder;
mod target;

pub use builder::{GroupBuilder, GroupError};

/// Links that share platform, limits and metrics labels. Cheap to clone. A group holds its [`Fleet`], which runs as long as it
/// is there: drop both, or drain the fleet.
#[derive(Debug, Clone)]
pub struct Group(Arc<GroupInner>);

#[derive(Debug)]
struct GroupInner {
    name: String,
    fleet: Fleet,
    profile: Arc<LinkProfile>,
    target: Arc<Target>,
    /// Each link has to have a certificate of its own.
    needs_certificate: bool,
    username_query: Option<&'static str>,
    credentials: Credentials,
    metrics: Arc<GroupMetrics>,
}

impl Group {
    /// A link that is one device.
    ///
    /// # Errors
    /// The text is no device id.
    pub fn device(&self, id: impl Into<ByteString>) -> Result<LinkBuilder, GroupError> {
        self.link(id, Role::Device)
    }

    /// A link that speaks for many devices.
    ///
    /// # Errors
    /// The text is no device id.
    pub fn gateway(&self, id: impl Into<ByteString>) -> Result<LinkBuilder, GroupError> {
        self.link(id, Role::Gateway)
    }

    /// A link on the application's side: it sees the devices from the other end.
    ///
    /// # Errors
    /// The text is no device id.
    pub fn application(&self, id: impl Into<ByteString>) -> Result<LinkBuilder, GroupError> {
        self.link(id, Role::Application)
    }

    fn link(&self, id: impl Into<ByteString>, role: Role) -> Result<LinkBuilder, GroupError> {
        let version = self.0.profile.session.version;
        Ok(LinkBuilder {
            group: self.clone(),
            identity: LinkIdentity {
                id: DeviceId::new(id)?,
                role,
                version,
            },
            target: Arc::clone(&self.0.target),
            credentials: self.0.credentials.clone(),
            client_id: None,
            will: None,
            has_certificate: false,
        })
    }
}

/// Settings of one link that differ from its group's.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `start`"]
pub struct LinkBuilder {
    group: Group,
    identity: LinkIdentity,
    target: Arc<Target>,
    credentials: Credentials,
    client_id: Option<ByteString>,
    will: Option<Will>,
    has_certificate: bool,
}

impl LinkBuilder {
    /// User name and password. Default: the group's.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// A client identifier other than the platform's rule gives. Empty lets an MQTT 5 server choose.
    pub fn client_id(mut self, client_id: impl Into<ByteString>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// A last will other than the platform's rule gives.
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// PEM files of a client certificate of the link's own.
    ///
    /// # Errors
    /// The files cannot be used, or the endpoint has no TLS.
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, GroupError> {
        let files = ClientCertificate {
            certificate: certificate.into(),
            key: key.into(),
        };
        let mut target = Target::clone(&self.target);
        let tls = match &mut target {
            Target::Tls(_, tls) => Some(tls),
            Target::WebSocket(target) => target.tls.as_mut(),
            Target::Tcp(_) | Target::Pipe(_) => None,
        };
        let tls = tls.ok_or(GroupError::TlsWithoutTls)?;
        *tls = tls.with_client_certificate(&files)?;
        self.target = Arc::new(target);
        self.has_certificate = true;
        Ok(self)
    }

    /// What a custom authorizer of AWS IoT is told about this link, instead of what the group's way says.
    ///
    /// # Errors
    /// A header of the WebSocket's request cannot be made of it.
    pub fn authorizer(mut self, authorizer: &aws::Authorizer) -> Result<Self, GroupError> {
        let Target::WebSocket(target) = &*self.target else {
            self.credentials = authorizer.credentials();
            return Ok(self);
        };
        let mut target = target.clone();
        target.upgrade = authorizer.upgrade()?;
        self.target = Arc::new(Target::WebSocket(target));
        self.credentials = authorizer.user_credentials().unwrap_or_default();
        Ok(self)
    }

    /// Starts the link and returns at once; it connects in the background and comes back by itself. A link with a
    /// durable queue first reads what is in it.
    ///
    /// # Errors
    /// The fleet is drained; the durable queue is open already or cannot be read.
    pub fn start(self) -> Result<Link, StartError> {
        let (fleet, spec) = self.into_spec()?;
        fleet.start_link(spec).map(Link::new)
    }

    /// The same with the link's events from the very first on: [`Link::events`] may come too late for how the
    /// first connect attempt ended.
    ///
    /// # Errors
    /// As [`LinkBuilder::start`].
    pub fn start_with_events(self) -> Result<(Link, Events), StartError> {
        let (fleet, spec) = self.into_spec()?;
        let (handle, events) = fleet.start_link_with_events(spec)?;
        Ok((Link::new(handle), Events::new(events)))
    }

    fn into_spec(self) -> Result<(Fleet, LinkSpec), StartError> {
        let group = &self.group.0;
        if group.needs_certificate && !self.has_certificate {
            return Err(aws::ConnectionError::Certificate.into());
        }
        let dialect = &group.profile.dialect;
        match &self.client_id {
            Some(client_id) => dialect.check_client_id(client_id, self.identity.version)?,
            None => dialect.check_client_id(self.identity.id.as_str(), self.identity.version)?,
        }
        if let Some(will) = &self.will {
            check_will(&**dialect, will)?;
        }
        let durability = group.profile.outbox.durability;
        let durable = match group.fleet.queues() {
            Some(queues) if durability != Durability::Memory => {
                let name = format!("{}/{}", group.name, self.identity.id);
                Some(Box::new(queues.open(&name, durability)?))
            }
            _ => None,
        };
        let spec = LinkSpec {
            identity: self.identity,
            profile: Arc::clone(&group.profile),
            target: self.target,
            credentials: self.credentials.with_username_query(group.username_query),
            client_id: self.client_id,
            will: self.will,
            pacer: group.fleet.pacer(),
            metrics: Arc::clone(&group.metrics),
            durable,
            fleet_room: group.fleet.room(),
        };
        Ok((group.fleet.clone(), spec))
    }
}

/// A server that has not the quality of service, or the length of the topic, would only close the connection.
fn check_will(dialect: &dyn Dialect, will: &Will) -> Result<(), DialectError> {
    if will.qos > dialect.capabilities().qos_max {
        return Err(DialectError::Unsupported {
            platform: dialect.platform(),
            operation: "last will of a quality of service this high",
        });
    }
    dialect.check_bounds("the topic of the last will", will.topic.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(url: &str) -> Group {
        let fleet = Fleet::builder().workers(1).start().unwrap();
        fleet.group("test").endpoint(url).build().unwrap()
    }

    #[test]
    fn a_link_has_a_name_that_fits_into_topics() {
        let group = group("mqtt://127.0.0.1:9");
        assert!(group.device("d1").is_ok());
        for name in ["", "a/b", "a+b", "#"] {
            let built = group.device(name);
            assert!(matches!(built, Err(GroupError::DeviceId(_))), "{name:?}");
        }
    }

    #[test]
    fn a_certificate_of_a_links_own_needs_tls() {
        for url in ["mqtt://127.0.0.1:9", "ws://127.0.0.1:9"] {
            let link = group(url).device("d1").unwrap();
            let built = link.client_certificate("device.pem", "device.key");
            assert!(matches!(built, Err(GroupError::TlsWithoutTls)), "{url}");
        }
    }
}
