//! User name and password of a link.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use secrecy::{ExposeSecret as _, SecretSlice};

/// User name and password, asked at every connect attempt. Never printed.
#[derive(Clone, Default)]
pub struct Credentials {
    source: Source,
    /// A query that the user name ends with.
    query: Option<&'static str>,
}

#[derive(Clone, Default)]
enum Source {
    #[default]
    None,
    Fixed(Arc<Fixed>),
    Provider(Arc<dyn Fn() -> Credentials + Send + Sync>),
}

struct Fixed {
    username: ByteString,
    password: Option<SecretSlice<u8>>,
}

impl Credentials {
    /// A user name alone.
    #[must_use]
    pub fn username(username: impl Into<ByteString>) -> Self {
        Self::of(Source::Fixed(Arc::new(Fixed {
            username: username.into(),
            password: None,
        })))
    }

    /// A user name and a password.
    #[must_use]
    pub fn password(username: impl Into<ByteString>, password: impl Into<Vec<u8>>) -> Self {
        Self::of(Source::Fixed(Arc::new(Fixed {
            username: username.into(),
            password: Some(SecretSlice::from(password.into())),
        })))
    }

    /// Asks `provider` at every connect attempt, for tokens that expire. It runs on the link's thread
    /// and must not block.
    #[must_use]
    pub fn provider(provider: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        Self::of(Source::Provider(Arc::new(provider)))
    }

    /// The same with a query such as `a=b&c=d` behind the user name: after `?`, or after `&` if there is a `?` in it
    /// already. Without a user name it is the user name.
    #[must_use]
    pub const fn with_username_query(mut self, query: Option<&'static str>) -> Self {
        self.query = query;
        self
    }

    const fn of(source: Source) -> Self {
        Self {
            source,
            query: None,
        }
    }

    pub(crate) fn resolve(&self) -> (Option<ByteString>, Option<Bytes>) {
        let (username, password) = self.source.resolve();
        let Some(query) = self.query else {
            return (username, password);
        };
        let front = username.unwrap_or_default();
        let separator = if front.contains('?') { '&' } else { '?' };
        (Some(format!("{front}{separator}{query}").into()), password)
    }
}

impl Source {
    fn resolve(&self) -> (Option<ByteString>, Option<Bytes>) {
        match self {
            Self::None => (None, None),
            Self::Fixed(fixed) => {
                let password = fixed
                    .password
                    .as_ref()
                    .map(|secret| Bytes::copy_from_slice(secret.expose_secret()));
                (Some(fixed.username.clone()), password)
            }
            Self::Provider(provider) => match provider().source {
                // One level is enough: a provider that gives a provider gives nothing.
                Self::Provider(_) => (None, None),
                fixed => fixed.resolve(),
            },
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.source {
            Source::None => "Credentials(none)",
            Source::Fixed(_) => "Credentials(redacted)",
            Source::Provider(_) => "Credentials(provider)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_behind_the_user_name_whatever_it_is() {
        let username = |credentials: Credentials| {
            let resolved = credentials.with_username_query(Some("a=b")).resolve();
            resolved.0.unwrap_or_default().to_string()
        };
        assert_eq!(username(Credentials::default()), "?a=b");
        assert_eq!(username(Credentials::username("u")), "u?a=b");
        assert_eq!(username(Credentials::username("u?x=y")), "u?x=y&a=b");
        let provider = Credentials::provider(|| Credentials::password("p", "secret"));
        assert_eq!(username(provider), "p?a=b");
        assert!(
            Credentials::default()
                .with_username_query(None)
                .resolve()
                .0
                .is_none()
        );
    }
}
