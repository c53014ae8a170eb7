//! The key `proxy` of a platform: the HTTP proxy that its links go through.

use std::fmt;

use paquebot_actors::HttpProxy;

use super::Context;
use super::credentials::{NeededFile, PASSWORD, PasswordSource};
use super::problem::ProblemKind as Kind;
use super::reader::{Field, Section};
use super::tree::Value;

/// The HTTP proxy of a platform.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProxyPlan {
    /// `http://host[:port]`; the port defaults to 8080.
    pub url: String,
    /// User name and password, for a proxy that wants them.
    pub login: Option<(String, PasswordSource)>,
}

impl fmt::Display for ProxyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

const FORM: &str = "write proxy = \"http://host:port\", or { url = \"http://host:port\", username = \"…\", password_file = \"…\" }";

/// Reads `proxy = "http://host:port"`, or the same as a table with a login.
pub(super) fn read_proxy<'a>(
    field: Option<Field<'a>>,
    needed: &mut Vec<NeededFile<'a>>,
    context: &Context<'a>,
) -> Option<ProxyPlan> {
    let field = field?;
    if !matches!(field.value(), Value::Table(_)) {
        let url = read_url(&field)?;
        return Some(ProxyPlan { url, login: None });
    }
    let section = field.section("a table")?;
    let url = section
        .required("url", "write url = \"http://host:port\"")
        .and_then(|field| read_url(&field));
    let login = read_login(&section, needed, context);
    section.finish();
    Some(ProxyPlan {
        url: url?,
        login: login?,
    })
}

fn read_url(field: &Field<'_>) -> Option<String> {
    let text = field.text("the address of a proxy such as \"http://proxy:3128\"")?;
    // What precedes an @ may be a password, so nothing of it is repeated.
    if text.contains('@') {
        field.fail(
            Kind::BadValue,
            "user name and password do not belong into the address",
            FORM,
        );
        return None;
    }
    if HttpProxy::new(text).is_err() {
        field.fail(
            Kind::BadValue,
            "this is no address of an HTTP proxy (http://host:port)",
            FORM,
        );
        return None;
    }
    Some(text.to_owned())
}

/// `None`: a mistake was noted.
fn read_login<'a>(
    section: &Section<'a>,
    needed: &mut Vec<NeededFile<'a>>,
    context: &Context<'a>,
) -> Option<Option<(String, PasswordSource)>> {
    let username = section.field("username");
    let password = PASSWORD.read(section, needed, context).ok()?;
    let Some(field) = username else {
        if password.is_some() {
            section.missing("username", "a password needs a user name beside it");
            return None;
        }
        return Some(None);
    };
    let name = field.text("a user name")?;
    if name.is_empty() || name.contains(':') {
        field.fail(
            Kind::BadValue,
            "this is no user name of a proxy",
            "write one without a colon",
        );
        return None;
    }
    let Some(password) = password else {
        section.missing(
            "password_file",
            "write password_file = \"…\" or password_env = \"VARIABLE\"",
        );
        return None;
    };
    // All links of the platform go through it as one.
    if matches!(&password, PasswordSource::File(path) if path.varies()) {
        field.fail(
            Kind::BadValue,
            "a proxy has one password for all devices",
            "write a password_file without a placeholder",
        );
        return None;
    }
    Some(Some((name.to_owned(), password)))
}
