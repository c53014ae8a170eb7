//! Greengrass discovery: "Greengrass discovery RESTful API" of the AWS IoT Greengrass developer guide.

use super::json::{Json, Object, object};

/// A group of cores that a thing may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GreengrassGroup {
    /// The group's identifier.
    pub group_id: String,
    /// The cores of the group.
    pub cores: Vec<GreengrassCore>,
    /// The certificates of the authorities that sign for the cores, in PEM.
    pub certificate_authorities: Vec<String>,
}

/// A core device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GreengrassCore {
    /// The name of the core as a resource of Amazon's.
    pub thing_arn: String,
    /// Where it can be reached.
    pub connectivity: Vec<CoreConnectivity>,
}

/// One way to reach a core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreConnectivity {
    /// The way's identifier.
    pub id: String,
    /// A host name or an IP address.
    pub host_address: String,
    /// The port for MQTT over TLS.
    pub port: u16,
    /// Whatever the core's owner noted; often empty.
    pub metadata: String,
}

/// The answer to a thing that may connect to these groups.
pub(crate) fn answer(groups: &[GreengrassGroup]) -> Object {
    object([("GGGroups", Some(list(groups, group)))])
}

fn list<T>(items: &[T], each: impl Fn(&T) -> Object) -> Json {
    Json::Array(items.iter().map(|item| Json::Object(each(item))).collect())
}

fn group(group: &GreengrassGroup) -> Object {
    let authorities = group.certificate_authorities.iter();
    let authorities = authorities.map(|pem| Json::from(pem.as_str())).collect();
    object([
        ("GGGroupId", Some(group.group_id.as_str().into())),
        ("Cores", Some(list(&group.cores, core))),
        ("CAs", Some(Json::Array(authorities))),
    ])
}

fn core(core: &GreengrassCore) -> Object {
    object([
        ("thingArn", Some(core.thing_arn.as_str().into())),
        ("Connectivity", Some(list(&core.connectivity, connectivity))),
    ])
}

fn connectivity(way: &CoreConnectivity) -> Object {
    object([
        ("Id", Some(way.id.as_str().into())),
        ("HostAddress", Some(way.host_address.as_str().into())),
        ("PortNumber", Some(u64::from(way.port).into())),
        ("Metadata", Some(way.metadata.as_str().into())),
    ])
}
