//! Where access keys come from, asked anew at every connect attempt: keys are rotated, and temporary ones end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use paquebot_protocols::dialect::aws::signature::AccessKey;
use secrecy::zeroize::Zeroize as _;
use secrecy::{ExposeSecret as _, SecretString};

#[cfg(feature = "aws-default-credentials")]
mod default_chain;

/// Largest credentials file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The profile that is taken when none is named.
const DEFAULT_PROFILE: &str = "default";

/// Why there is no access key.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AccessKeyError {
    /// None of the places has one.
    #[error("there are no AWS credentials{}", Looked(.looked))]
    NotFound {
        /// Where was looked, and what was there.
        looked: Vec<String>,
    },
    /// The key has ended.
    #[error("the AWS credentials {id} have expired; whoever provides them has to renew them")]
    Expired {
        /// The access key's id.
        id: String,
    },
    /// A provider of one's own failed.
    #[error("the provider of AWS credentials failed: {0}")]
    Provider(Arc<dyn std::error::Error + Send + Sync>),
}

struct Looked<'a>(&'a [String]);

impl std::fmt::Display for Looked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, place) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { ": " } else { "; " })?;
            f.write_str(place)?;
        }
        Ok(())
    }
}

type Provider =
    Arc<dyn Fn() -> BoxFuture<'static, Result<AccessKey, AccessKeyError>> + Send + Sync>;

/// A source of access keys. Secrets are never printed.
///
/// | source | what it takes |
/// |---|---|
/// | [`AccessKeys::fixed`] | the key it is given |
/// | [`AccessKeys::default`] | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, then the file |
/// | [`AccessKeys::profile`] | one profile of the file |
/// | [`AccessKeys::provider`] | what a function of one's own gives |
/// | `AccessKeys::default_chain` | what the AWS SDK finds: SSO, assumed roles, web identity, containers, EC2; feature `aws-default-credentials` |
///
/// The file is `~/.aws/credentials`, or the one that `AWS_SHARED_CREDENTIALS_FILE` names, and the profile in it
/// `AWS_PROFILE` or else `default`. Of the variables the first two count only together; one without the other is as
/// none, and the error says so if the file has none either. This is the order of Amazon's first SDK.
#[derive(Clone, Default)]
pub struct AccessKeys(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Surroundings,
    Profile(String),
    Fixed(Arc<AccessKey>),
    Provider(Provider),
}

impl std::fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Source::Surroundings => f.write_str("AccessKeys(environment, file)"),
            Source::Profile(name) => write!(f, "AccessKeys(profile {name})"),
            Source::Fixed(key) => write!(f, "AccessKeys({})", key.id),
            Source::Provider(_) => f.write_str("AccessKeys(provider)"),
        }
    }
}

impl AccessKeys {
    /// This key, for as long as it holds.
    #[must_use]
    pub fn fixed(key: AccessKey) -> Self {
        Self(Source::Fixed(Arc::new(key)))
    }

    /// The key of a profile of the credentials file, whatever the environment's variables say.
    #[must_use]
    pub fn profile(name: impl Into<String>) -> Self {
        Self(Source::Profile(name.into()))
    }

    /// Asks `provider` at every connect attempt. It runs on the link's thread and must not block; what it awaits counts
    /// towards the deadline of the WebSocket stage.
    ///
    /// `AccessKeys::default_chain`, with the feature `aws-default-credentials`, is made of it.
    #[must_use]
    pub fn provider(
        provider: impl Fn() -> BoxFuture<'static, Result<AccessKey, AccessKeyError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Source::Provider(Arc::new(provider)))
    }

    /// Whether there is a key in the environment or the file, where this source looks there; nobody else is asked. Reads
    /// the file, so it may block for as long as the file system does.
    ///
    /// # Errors
    /// There is none; with all places that were looked at.
    pub fn look(&self) -> Result<(), AccessKeyError> {
        let surroundings = Surroundings::process();
        match &self.0 {
            Source::Surroundings => surroundings.key(None).map(drop),
            Source::Profile(name) => surroundings.key(Some(name)).map(drop),
            Source::Fixed(_) | Source::Provider(_) => Ok(()),
        }
    }

    /// The key that holds now. Files are read on a thread for that; call it on a tokio runtime.
    ///
    /// # Errors
    /// There is none, or it has expired; with all places that were looked at.
    pub async fn resolve(&self) -> Result<AccessKey, AccessKeyError> {
        let key = match &self.0 {
            Source::Fixed(key) => AccessKey::clone(key),
            Source::Provider(provider) => provider().await?,
            Source::Surroundings => off_the_link(|| Surroundings::process().key(None)).await?,
            Source::Profile(name) => {
                let name = name.clone();
                off_the_link(move || Surroundings::process().key(Some(&name))).await?
            }
        };
        if key.expires_at.is_some_and(|end| end <= SystemTime::now()) {
            return Err(AccessKeyError::Expired { id: key.id });
        }
        Ok(key)
    }
}

async fn off_the_link(
    read: impl FnOnce() -> Result<AccessKey, AccessKeyError> + Send + 'static,
) -> Result<AccessKey, AccessKeyError> {
    let task = tokio::task::spawn_blocking(read).await;
    task.map_err(|error| AccessKeyError::Provider(Arc::new(error)))?
}

/// The environment of a process, as far as it says something about access keys.
struct Surroundings<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Surroundings<'static> {
    fn process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
        }
    }
}

impl Surroundings<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The key of a profile, or with none named the one that the order of places gives.
    fn key(&self, profile: Option<&str>) -> Result<AccessKey, AccessKeyError> {
        let mut looked = Vec::new();
        if profile.is_none() {
            match self.environment_key() {
                Ok(key) => return Ok(key),
                Err(problem) => looked.push(format!("environment: {problem}")),
            }
        }
        let chosen = self.variable("AWS_PROFILE");
        let name = profile.or(chosen.as_deref()).unwrap_or(DEFAULT_PROFILE);
        match self.file() {
            None => {
                looked.push("credentials file: HOME is not set, so there is no ~/.aws".to_owned())
            }
            Some(path) => match file_key(&path, name) {
                Ok(key) => return Ok(key),
                Err(problem) => looked.push(format!("{}: {problem}", path.display())),
            },
        }
        Err(AccessKeyError::NotFound { looked })
    }

    fn environment_key(&self) -> Result<AccessKey, &'static str> {
        let id = self.variable("AWS_ACCESS_KEY_ID");
        let secret = self.variable("AWS_SECRET_ACCESS_KEY");
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(AccessKey {
                id,
                secret: secret.into(),
                session_token: self.variable("AWS_SESSION_TOKEN").map(SecretString::from),
                expires_at: None,
            }),
            (Some(_), None) => Err("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"),
            (None, Some(_)) => Err("AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID"),
            (None, None) => Err("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        }
    }

    fn file(&self) -> Option<PathBuf> {
        if let Some(path) = self.variable("AWS_SHARED_CREDENTIALS_FILE") {
            return Some(path.into());
        }
        let home = self
            .variable("HOME")
            .or_else(|| self.variable("USERPROFILE"))?;
        Some(Path::new(&home).join(".aws").join("credentials"))
    }
}

fn file_key(path: &Path, profile: &str) -> Result<AccessKey, String> {
    let text = read_file(path).map_err(|error| error.to_string())?;
    profile_key(text.expose_secret(), profile)
}

fn read_file(path: &Path) -> io::Result<SecretString> {
    let file = File::open(path)?;
    // A named pipe or a device could block or never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let text = match std::str::from_utf8(&bytes) {
        _ if bytes.len() as u64 > FILE_BYTES_MAX => Err("it is larger than 1 MiB"),
        Ok(text) => Ok(SecretString::from(text)),
        Err(_) => Err("it is not UTF-8"),
    };
    bytes.zeroize();
    text.map_err(io::Error::other)
}

/// Reads one profile of a credentials file: `[name]`, then lines `key = value`. What other tools keep there is passed
/// over. Values are taken as they are, since a secret may hold any character: there are no comments behind them.
fn profile_key(text: &str, profile: &str) -> Result<AccessKey, String> {
    let (mut id, mut secret, mut session_token) = (None, None, None);
    let (mut is_there, mut is_in_it) = (false, false);
    // A byte order mark is what some editors begin a file with.
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            is_in_it = name.0.trim() == profile;
            is_there |= is_in_it;
        } else if is_in_it && let Some((key, value)) = line.split_once('=') {
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match key.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => session_token = value,
                _ => {}
            }
        }
    }
    let mut problem = format!("the profile [{profile}] ");
    let missing = match (id, secret) {
        (Some(id), Some(secret)) => {
            return Ok(AccessKey {
                id: id.to_owned(),
                secret: secret.into(),
                session_token: session_token.map(SecretString::from),
                expires_at: None,
            });
        }
        _ if !is_there => {
            problem.push_str("is not in it");
            return Err(problem);
        }
        (Some(_), None) => "aws_secret_access_key",
        (None, Some(_)) => "aws_access_key_id",
        (None, None) => "aws_access_key_id and no aws_secret_access_key",
    };
    let _ = write!(problem, "has no {missing}");
    Err(problem)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    const FILE: &str = "\u{feff}# canary comment\n[default]\naws_access_key_id = FILEDEFAULT\n\
        AWS_SECRET_ACCESS_KEY=canary/file#secret\n\n[other]\r\naws_access_key_id=FILEOTHER\r\n\
        aws_secret_access_key = canary=other\r\naws_session_token = canary-token==\r\nregion = x\r\n\
        [half]\naws_access_key_id = HALF\n[ spaced ]\n; note\n[empty]\naws_access_key_id =\n";

    /// A home with a credentials file in it.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), FILE).unwrap();
        home
    }

    fn look(
        variables: &[(&str, &str)],
        home: &Path,
        profile: Option<&str>,
    ) -> Result<AccessKey, AccessKeyError> {
        let mut all: HashMap<&str, &str> = variables.iter().copied().collect();
        all.entry("HOME").or_insert(home.to_str().unwrap());
        let variable = |name: &str| all.get(name).map(|value| (*value).to_owned());
        let surroundings = Surroundings {
            variable: &variable,
        };
        surroundings.key(profile)
    }

    #[test]
    fn the_environment_comes_before_the_file_and_counts_only_whole() {
        let home = home();
        let whole = [
            ("AWS_ACCESS_KEY_ID", "ENV"),
            ("AWS_SECRET_ACCESS_KEY", "canary-env"),
        ];
        let key = look(&whole, home.path(), None).unwrap();
        assert_eq!(
            (key.id.as_str(), key.secret.expose_secret()),
            ("ENV", "canary-env")
        );
        assert!(key.session_token.is_none());
        let with_token = [whole[0], whole[1], ("AWS_SESSION_TOKEN", "canary-token")];
        let key = look(&with_token, home.path(), None).unwrap();
        assert!(
            key.session_token
                .is_some_and(|token| token.expose_secret() == "canary-token")
        );
        for half in whole {
            let key = look(&[half], home.path(), None).unwrap();
            assert_eq!(key.id, "FILEDEFAULT");
            assert_eq!(key.secret.expose_secret(), "canary/file#secret");
        }
        let key = look(
            &[whole[0], ("AWS_SECRET_ACCESS_KEY", "")],
            home.path(),
            None,
        )
        .unwrap();
        assert_eq!(key.id, "FILEDEFAULT");
        // Who names a profile wants that one.
        let key = look(&whole, home.path(), Some("other")).unwrap();
        assert_eq!(key.id, "FILEOTHER");
    }

    #[test]
    fn a_profile_is_that_of_the_call_or_of_the_environment_or_the_default_one() {
        let home = home();
        let chosen = [("AWS_PROFILE", "other")];
        let key = look(&chosen, home.path(), None).unwrap();
        assert_eq!(
            (key.id.as_str(), key.secret.expose_secret()),
            ("FILEOTHER", "canary=other")
        );
        assert!(
            key.session_token
                .is_some_and(|token| token.expose_secret() == "canary-token==")
        );
        assert_eq!(
            look(&chosen, home.path(), Some("default")).unwrap().id,
            "FILEDEFAULT"
        );
        let elsewhere = home.path().join("elsewhere");
        std::fs::write(
            &elsewhere,
            "[default]\naws_access_key_id=A\naws_secret_access_key=b\n",
        )
        .unwrap();
        let named = [("AWS_SHARED_CREDENTIALS_FILE", elsewhere.to_str().unwrap())];
        assert_eq!(look(&named, home.path(), None).unwrap().id, "A");
    }

    #[test]
    fn without_a_key_the_error_says_where_was_looked_and_no_secret() {
        let home = home();
        let nothing = tempfile::tempdir().unwrap();
        for (variables, home, profile, words) in [
            (
                &[][..],
                nothing.path(),
                None,
                ["AWS_ACCESS_KEY_ID and", ".aws/credentials: No such file"],
            ),
            (
                &[("AWS_ACCESS_KEY_ID", "X")],
                nothing.path(),
                None,
                ["without AWS_SECRET_ACCESS_KEY", "No such file"],
            ),
            (
                &[("AWS_SECRET_ACCESS_KEY", "canary")],
                nothing.path(),
                None,
                ["without AWS_ACCESS_KEY_ID", "No such file"],
            ),
            (
                &[],
                home.path(),
                Some("absent"),
                [".aws/credentials", "[absent] is not in it"],
            ),
            (
                &[],
                home.path(),
                Some("half"),
                ["[half] has no", "aws_secret_access_key"],
            ),
            (
                &[],
                home.path(),
                Some("spaced"),
                ["[spaced] has no", "aws_access_key_id and"],
            ),
            (
                &[],
                home.path(),
                Some("empty"),
                ["[empty]", "aws_access_key_id and"],
            ),
            (
                &[("AWS_SHARED_CREDENTIALS_FILE", "/")],
                home.path(),
                None,
                ["/: it is not a file", "environment"],
            ),
            (
                &[("HOME", "")],
                home.path(),
                None,
                ["HOME is not set", "environment"],
            ),
        ] {
            let error = look(variables, home, profile).unwrap_err();
            for word in words {
                assert!(error.to_string().contains(word), "{word}: {error}");
            }
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_that_has_expired_is_none_and_one_that_will_is() {
        let key = |expires_at| AccessKey {
            id: "ID".to_owned(),
            secret: "canary".into(),
            session_token: None,
            expires_at,
        };
        let now = SystemTime::now();
        let past = AccessKeys::fixed(key(Some(now)));
        let error = past.resolve().await.unwrap_err();
        assert!(
            matches!(&error, AccessKeyError::Expired { id } if id == "ID"),
            "{error}"
        );
        let future = AccessKeys::fixed(key(Some(now + Duration::from_secs(3600))));
        assert_eq!(future.resolve().await.unwrap().id, "ID");
        let failing = AccessKeys::provider(|| {
            Box::pin(async {
                Err(AccessKeyError::Provider(Arc::new(io::Error::other(
                    "no vault",
                ))))
            })
        });
        let error = failing.resolve().await.unwrap_err();
        assert!(error.to_string().contains("no vault"), "{error}");
        let given = AccessKeys::provider(move || {
            let key = key(None);
            Box::pin(async move { Ok(key) })
        });
        assert_eq!(given.resolve().await.unwrap().id, "ID");
        assert!(!format!("{past:?} {future:?} {failing:?} {given:?}").contains("canary"));
    }
}
