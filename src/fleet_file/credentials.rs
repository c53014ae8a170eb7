//! How devices prove who they are, and whether the files for it are there.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use paquebot_actors::{ClientCertificate, look_at_client_certificate, pending_certificate};
use secrecy::zeroize::Zeroize;
use secrecy::{ExposeSecret, SecretSlice};

use super::Context;
use super::plan::GroupPlan;
use super::problem::ProblemKind as Kind;
use super::reader::{Field, Section};
use crate::template::{NameTemplate, Subject};

/// How the devices of a platform prove who they are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AuthPlan {
    /// Not at all.
    None,
    /// By user name and password.
    Password {
        /// User name.
        username: NameTemplate,
        /// Password.
        password: PasswordSource,
    },
    /// By a client certificate.
    X509 {
        /// PEM file with the certificate and its chain.
        cert: PathTemplate,
        /// PEM file with its private key.
        key: PathTemplate,
        /// User name, for brokers that want one beside the certificate.
        username: Option<NameTemplate>,
    },
    /// By an AWS access key.
    AccessKey(AccessKeyPlan),
    /// By what a custom authorizer of AWS IoT is told.
    CustomAuthorizer(AuthorizerPlan),
}

/// Where an AWS access key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessKeyPlan {
    /// The environment, then the credentials file.
    Surroundings,
    /// This profile of the credentials file: `profile`.
    Profile(String),
    /// The AWS SDK's default chain: `credentials = "default-chain"`.
    #[cfg(feature = "aws-default-credentials")]
    DefaultChain,
}

/// What a custom authorizer is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AuthorizerPlan {
    /// Which one; `None`: the account's default.
    pub name: Option<String>,
    /// User name.
    pub username: Option<NameTemplate>,
    /// Password.
    pub password: Option<PasswordSource>,
    /// The parameter that holds the token, and the token.
    pub token: Option<(String, PasswordSource)>,
    /// The token's signature.
    pub signature: Option<PasswordSource>,
}

impl fmt::Display for AccessKeyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Surroundings => f.write_str("the environment"),
            Self::Profile(name) => write!(f, "profile {name}"),
            #[cfg(feature = "aws-default-credentials")]
            Self::DefaultChain => f.write_str("the AWS SDK's default chain"),
        }
    }
}

/// Where a password comes from. It is never in the fleet file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PasswordSource {
    /// From an environment variable, taken when the plan was made; the same for all devices.
    Environment(SecretSlice<u8>),
    /// From a file that is read at each connect, so that a new password needs no restart.
    File(PathTemplate),
}

/// The path of a file, perhaps another one for each device. Relative ones start at the fleet file's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct PathTemplate {
    base: PathBuf,
    template: NameTemplate,
}

const PATH_RULE: &str = "relative paths start at the folder of the fleet file";

/// Longest password: what a CONNECT can carry, in bytes.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// Largest credential file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How many devices of a group have their files looked at by the check: the first ones, and the last.
const DEVICES_LOOKED_AT: u64 = 1_000;

impl PathTemplate {
    pub(super) fn new(base: &Path, template: NameTemplate) -> Self {
        Self {
            base: base.to_owned(),
            template,
        }
    }

    /// The path for one device.
    #[must_use]
    pub fn path(&self, subject: &Subject<'_>) -> PathBuf {
        self.base.join(self.template.render(subject))
    }

    /// Whether each device has its own file.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.template.varies()
    }
}

impl PasswordSource {
    /// The password of one device. Reads its file, if it is in one, without a line break at its end; this
    /// blocks for as long as the file system does.
    ///
    /// # Errors
    /// What reading the file ends with; `InvalidData` for one that is empty or longer than 65,535 bytes.
    pub fn read(&self, subject: &Subject<'_>) -> io::Result<SecretSlice<u8>> {
        match self {
            Self::Environment(password) => Ok(password.clone()),
            Self::File(path) => read_password(&path.path(subject)),
        }
    }
}

fn read_password(path: &Path) -> io::Result<SecretSlice<u8>> {
    let mut bytes = read_limited(path)?;
    for line_break in [b'\n', b'\r'] {
        if bytes.last() == Some(&line_break) {
            bytes.pop();
        }
    }
    let refused = if bytes.is_empty() {
        "it is empty; write the password into it"
    } else if bytes.len() > PASSWORD_BYTES_MAX {
        "it is longer than the 65,535 bytes that MQTT carries"
    } else {
        // Shrinking may move the bytes and leave a copy behind, so the exact size is allocated here.
        let password: Box<[u8]> = bytes.as_slice().into();
        bytes.zeroize();
        return Ok(password.into());
    };
    bytes.zeroize();
    Err(io::Error::new(io::ErrorKind::InvalidData, refused))
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // A named pipe or a device could block or never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is larger than 1 MiB",
        ));
    }
    Ok(bytes)
}

/// A file that a platform needs, and the key that asks for it.
pub(super) struct NeededFile<'a> {
    pub(super) field: Field<'a>,
    pub(super) path: PathTemplate,
    pub(super) content: Content,
}

/// What has to be in a file.
#[derive(Clone, Copy)]
pub(super) enum Content {
    Certificates,
    PrivateKey,
    Password,
}

/// Reads the `auth` table of a platform.
pub(super) fn read_auth<'a>(
    field: Option<Field<'a>>,
    tls: Option<bool>,
    needed: &mut Vec<NeededFile<'a>>,
    context: &Context<'a>,
) -> Option<AuthPlan> {
    let Some(field) = field else {
        return Some(AuthPlan::None);
    };
    let section = field.section("a table such as { type = \"none\" }")?;
    let kind = section
        .required("type", "write type = \"none\", \"password\" or \"x509\"")
        .and_then(|field| read_kind(&field));
    let auth = match kind {
        Some(AuthKind::None) => Some(AuthPlan::None),
        Some(AuthKind::Password) => read_password_auth(&section, needed, context),
        Some(AuthKind::X509) => {
            if tls == Some(false) {
                field.fail(
                    Kind::BadValue,
                    "a certificate needs TLS",
                    "write the endpoint as mqtts://",
                );
            }
            read_x509_auth(&section, needed, context)
        }
        // Which keys are right depends on the type, so without one nothing can be said about them.
        None => return None,
    };
    section.finish();
    auth
}

#[derive(Clone, Copy)]
enum AuthKind {
    None,
    Password,
    X509,
}

fn read_kind(field: &Field<'_>) -> Option<AuthKind> {
    if let super::tree::Value::Text(text) = field.value()
        && ["sas", "token", "custom", "jwt"].contains(&text.as_str())
    {
        field.fail(
            Kind::NotAvailable,
            format!("{text:?} is not available in this version"),
            "use \"none\", \"password\" or \"x509\"",
        );
        return None;
    }
    field.word(&[
        ("none", AuthKind::None),
        ("password", AuthKind::Password),
        ("x509", AuthKind::X509),
    ])
}

fn read_password_auth<'a>(
    section: &Section<'a>,
    needed: &mut Vec<NeededFile<'a>>,
    context: &Context<'a>,
) -> Option<AuthPlan> {
    let username = section
        .required("username", "write username = \"{{id}}\" or a fixed name")
        .and_then(|field| field.template("a user name", NameTemplate::new));
    let password = PASSWORD.read(section, needed, context);
    if let Ok(None) = password {
        section.missing(
            "password_file",
            "write password_file = \"secrets/{{id}}\" or password_env = \"VARIABLE\"",
        );
    }
    Some(AuthPlan::Password {
        username: username?,
        password: password.ok()??,
    })
}

/// The keys of a secret: it is in a file or in a variable, and never in the fleet file itself.
pub(super) struct SecretKeys {
    pub(super) what: &'static str,
    pub(super) itself: &'static str,
    pub(super) file: &'static str,
    pub(super) variable: &'static str,
}

pub(super) const PASSWORD: SecretKeys = SecretKeys {
    what: "a password",
    itself: "password",
    file: "password_file",
    variable: "password_env",
};

/// A mistake that was noted.
pub(super) struct Noted;

impl SecretKeys {
    /// Where the secret is, if the table says anything about it.
    pub(super) fn read<'a>(
        &self,
        section: &Section<'a>,
        needed: &mut Vec<NeededFile<'a>>,
        context: &Context<'a>,
    ) -> Result<Option<PasswordSource>, Noted> {
        let file = section.field(self.file);
        let variable = section.field(self.variable);
        if let Some(field) = section.field(self.itself) {
            field.fail_at_key(
                Kind::BadValue,
                format!("{} does not belong into the fleet file", self.what),
                format!(
                    "put it into a file and write {} = \"…\", or into an environment variable and write {} = \"…\"",
                    self.file, self.variable
                ),
            );
            return Err(Noted);
        }
        match (file, variable) {
            (Some(file), None) => {
                let path = read_path(&file, context).ok_or(Noted)?;
                needed.push(NeededFile {
                    field: file,
                    path: path.clone(),
                    content: Content::Password,
                });
                Ok(Some(PasswordSource::File(path)))
            }
            (None, Some(variable)) => read_variable(&variable, context).map(Some).ok_or(Noted),
            (Some(_), Some(variable)) => {
                variable.fail_at_key(
                    Kind::BadValue,
                    format!("there is a {} too", self.file),
                    "keep one of the two",
                );
                Err(Noted)
            }
            (None, None) => Ok(None),
        }
    }
}

fn read_variable(field: &Field<'_>, context: &Context<'_>) -> Option<PasswordSource> {
    let name = field.text("the name of an environment variable")?;
    match context.overrides.variable(name) {
        Some(password) if (1..=PASSWORD_BYTES_MAX).contains(&password.len()) => Some(
            PasswordSource::Environment(Box::<[u8]>::from(password.as_bytes()).into()),
        ),
        Some(_) => {
            field.fail(
                Kind::Unreadable,
                format!("the environment variable {name} is empty or longer than 65,535 bytes"),
                "set it to the password",
            );
            None
        }
        None => {
            // Someone may have written the password itself, which is not to be repeated.
            let conventional = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
            let shown = if name.bytes().all(conventional) {
                format!("there is no environment variable {name:?}")
            } else {
                "there is no environment variable of this name".to_owned()
            };
            field.fail(
                Kind::Unreadable,
                shown,
                "set it to the password; this key takes the variable's name, not the password",
            );
            None
        }
    }
}

pub(super) fn read_x509_auth<'a>(
    section: &Section<'a>,
    needed: &mut Vec<NeededFile<'a>>,
    context: &Context<'a>,
) -> Option<AuthPlan> {
    let mut file = |key, what, content| {
        let field = section.required(key, what)?;
        let path = read_path(&field, context)?;
        needed.push(NeededFile {
            field,
            path: path.clone(),
            content,
        });
        Some(path)
    };
    let cert = file(
        "cert",
        "write cert = \"certs/{{id}}.pem\"",
        Content::Certificates,
    );
    let key = file(
        "key",
        "write key = \"certs/{{id}}.key\"",
        Content::PrivateKey,
    );
    let username = match section.field("username") {
        Some(field) => Some(field.template("a user name", NameTemplate::new)?),
        None => None,
    };
    Some(AuthPlan::X509 {
        cert: cert?,
        key: key?,
        username,
    })
}

fn read_path(field: &Field<'_>, context: &Context<'_>) -> Option<PathTemplate> {
    let template = field.template("a path", NameTemplate::new)?;
    if template.source().is_empty() {
        field.fail(Kind::BadValue, "the path is empty", "write a path");
        return None;
    }
    Some(PathTemplate::new(context.base_dir, template))
}

/// Looks at the files of a group's devices and notes those that cannot be used, one problem a key.
pub(super) fn check_files(
    group: &GroupPlan,
    needed: &[NeededFile<'_>],
    seen: &mut HashSet<PathBuf>,
) {
    let mut are_good = true;
    for file in needed {
        are_good &= check_file(group, file, seen);
    }
    if are_good {
        check_pairs(group, needed, seen);
    }
}

/// Whether the certificates of a group's devices fit their keys, which the files by themselves do not show.
fn check_pairs(group: &GroupPlan, needed: &[NeededFile<'_>], seen: &mut HashSet<PathBuf>) {
    let AuthPlan::X509 { cert, key, .. } = &group.platform.auth else {
        return;
    };
    let field = needed
        .iter()
        .find(|file| matches!(file.content, Content::PrivateKey));
    let mut bad = 0_u64;
    let mut first_bad = None;
    let mut interrupted: Vec<PathBuf> = Vec::new();
    for index in looked_at(group, cert.varies() || key.varies()) {
        let device = group.device(index);
        let subject = group.subject(&device);
        let files = ClientCertificate {
            certificate: cert.path(&subject),
            key: key.path(&subject),
        };
        // The same pair for all, or for another group. No file has such a name.
        let mut pair = files.certificate.clone().into_os_string();
        pair.push("\0");
        pair.push(&files.key);
        if !seen.insert(pair.into()) {
            continue;
        }
        match look_at_client_certificate(&files) {
            Ok(false) => {}
            Ok(true) => interrupted.push(files.certificate),
            Err(error) => {
                bad += 1;
                first_bad.get_or_insert(error);
            }
        }
    }
    let Some(field) = field else {
        return;
    };
    if let Some(certificate) = interrupted.first() {
        let others = match interrupted.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        field.field.warn(format!(
            "a replacement of {}{others} and its key was interrupted: links take {} and put it in its place when they \
             connect",
            certificate.display(),
            pending_certificate(certificate).display()
        ));
    }
    let Some(error) = first_bad else {
        return;
    };
    let others = match bad - 1 {
        0 => String::new(),
        others => format!(" ({others} more pairs are bad too)"),
    };
    field.field.fail(
        Kind::Unreadable,
        format!("{error}{others}"),
        "give each certificate the key that it was made for",
    );
}

/// The devices whose files are looked at: one where all have the same.
fn looked_at(group: &GroupPlan, varies: bool) -> impl Iterator<Item = u64> + use<> {
    let indexes = group.indexes();
    let first_ones = if varies { DEVICES_LOOKED_AT } else { 1 };
    let first_end = indexes.start.saturating_add(first_ones).min(indexes.end);
    let last = varies
        .then(|| indexes.end.saturating_sub(1))
        .filter(|last| *last >= first_end);
    (indexes.start..first_end).chain(last)
}

/// Whether none is bad.
fn check_file(group: &GroupPlan, file: &NeededFile<'_>, seen: &mut HashSet<PathBuf>) -> bool {
    let (mut count, mut bad) = (0_u64, 0_u64);
    let mut first_bad = None;
    for index in looked_at(group, file.path.varies()) {
        let device = group.device(index);
        let path = file.path.path(&group.subject(&device));
        if !seen.insert(path.clone()) {
            continue;
        }
        count += 1;
        if let Err(why) = check_content(&path, file.content) {
            bad += 1;
            first_bad.get_or_insert((path, device.id, why));
        }
    }
    let Some((path, id, why)) = first_bad else {
        return true;
    };
    let whose = if file.path.varies() {
        format!(" of device {id}")
    } else {
        String::new()
    };
    let others = match bad - 1 {
        0 => String::new(),
        others => format!(" ({others} more of the {count} files looked at are bad too)"),
    };
    file.field.fail(
        Kind::Unreadable,
        format!("{}{whose} cannot be used: {why}{others}", path.display()),
        PATH_RULE,
    );
    false
}

/// Looks at a file of certificates to trust.
pub(super) fn check_trust(field: &Field<'_>, path: &Path) {
    if let Err(why) = check_content(path, Content::Certificates) {
        field.fail(
            Kind::Unreadable,
            format!("{} cannot be used: {why}", path.display()),
            PATH_RULE,
        );
    }
}

fn check_content(path: &Path, content: Content) -> Result<(), String> {
    if matches!(content, Content::Password) {
        return read_password(path)
            .map(|_| ())
            .map_err(|error| error.to_string());
    }
    let bytes = read_limited(path).map_err(|error| error.to_string())?;
    // A key's bytes are wiped as soon as they were looked at.
    let text: SecretSlice<u8> = bytes.into();
    let has = |marker: &str| {
        text.expose_secret()
            .windows(marker.len())
            .any(|window| window == marker.as_bytes())
    };
    match content {
        Content::Certificates if !has("-----BEGIN CERTIFICATE-----") => Err(
            "there is no PEM certificate in it; convert it with `openssl x509 -inform der`"
                .to_owned(),
        ),
        Content::PrivateKey if has("BEGIN ENCRYPTED") || has("4,ENCRYPTED") => Err(
            "the key is encrypted; take the pass phrase off with `openssl pkey -in … -out …`"
                .to_owned(),
        ),
        Content::PrivateKey if !has("PRIVATE KEY-----") => Err(
            "there is no PEM private key in it; convert it with `openssl pkey -inform der`"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}
