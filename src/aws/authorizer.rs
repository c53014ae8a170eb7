//! Custom authorizers: a function of the account's own that decides who is let in.

use std::sync::Arc;

use paquebot_actors::{Credentials, Upgrade, UpgradeError, UpgradeRequest};
use paquebot_protocols::dialect::aws::signature::{PATH, encode};
use secrecy::{ExposeSecret as _, SecretString};

/// The parameters' names ("Custom authentication" of the AWS IoT developer guide).
const NAME: &str = "x-amz-customauthorizer-name";
const SIGNATURE: &str = "x-amz-customauthorizer-signature";

/// A token and its signature.
#[derive(Debug, Clone)]
pub struct AuthorizerToken {
    /// The token.
    pub token: SecretString,
    /// Its signature in Base64, not percent-encoded; an authorizer that checks none needs none.
    pub signature: Option<SecretString>,
}

type TokenProvider = Arc<dyn Fn() -> AuthorizerToken + Send + Sync>;

/// What a custom authorizer is told. Over MQTT it goes into the user name, as a query behind it, over WebSocket into
/// headers; the password goes into CONNECT. Secrets are never printed.
///
/// Shape of the user name: `{user}?x-amz-customauthorizer-name={name}&x-amz-customauthorizer-signature={signature}&{key}={token}`,
/// the signature and the token percent-encoded.
#[derive(Clone, Default)]
#[must_use = "it does nothing by itself; give it to a `Connection`"]
pub struct Authorizer {
    name: Option<String>,
    user: String,
    password: Option<SecretString>,
    /// The parameter that holds the token, and where it comes from.
    token: Option<(String, TokenProvider)>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer")
            .field("name", &self.name)
            .field("token_key", &self.token.as_ref().map(|(key, _)| key))
            .finish_non_exhaustive()
    }
}

impl Authorizer {
    /// The authorizer of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }

    /// The account's default authorizer.
    pub fn of_the_account() -> Self {
        Self::default()
    }

    /// The user name, in front of the parameters. Default: empty.
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.user = name.into();
        self
    }

    /// The password. Default: none.
    pub fn password(mut self, password: impl Into<SecretString>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The token, under the key that the authorizer was made with.
    pub fn token(self, key: impl Into<String>, token: AuthorizerToken) -> Self {
        self.token_provider(key, move || token.clone())
    }

    /// The same, asked anew at every connect attempt: for tokens that expire. It runs on the link's thread and must
    /// not block.
    pub fn token_provider(
        mut self,
        key: impl Into<String>,
        provider: impl Fn() -> AuthorizerToken + Send + Sync + 'static,
    ) -> Self {
        self.token = Some((key.into(), Arc::new(provider)));
        self
    }

    /// User name and password of CONNECT over MQTT.
    pub(crate) fn credentials(&self) -> Credentials {
        let authorizer = self.clone();
        Credentials::provider(move || authorizer.with_password(authorizer.username()))
    }

    /// User name and password of CONNECT over WebSocket, where the rest is in headers.
    pub(crate) fn user_credentials(&self) -> Option<Credentials> {
        let has_user = !self.user.is_empty() || self.password.is_some();
        has_user.then(|| self.with_password(self.user.clone()))
    }

    fn with_password(&self, username: String) -> Credentials {
        match &self.password {
            Some(password) => Credentials::password(username, password.expose_secret()),
            None => Credentials::username(username),
        }
    }

    fn username(&self) -> String {
        let mut username = self.user.clone();
        let mut separator = if username.contains('?') { '&' } else { '?' };
        let mut append = |key: &str, value: &str| {
            username.push(separator);
            separator = '&';
            username.push_str(key);
            username.push('=');
            encode(value, &mut username);
        };
        if let Some(name) = &self.name {
            append(NAME, name);
        }
        if let Some((key, provider)) = &self.token {
            let AuthorizerToken { token, signature } = provider();
            if let Some(signature) = signature {
                append(SIGNATURE, signature.expose_secret());
            }
            append(key, token.expose_secret());
        }
        username
    }

    /// The request of a WebSocket, for each attempt anew.
    pub(crate) fn upgrade(&self) -> Result<Upgrade, UpgradeError> {
        // What is fixed in it shows now and not at the first attempt.
        self.request()?;
        let authorizer = self.clone();
        Ok(Upgrade::Provider(Arc::new(move || {
            Box::pin(std::future::ready(authorizer.request()))
        })))
    }

    fn request(&self) -> Result<UpgradeRequest, UpgradeError> {
        let mut request = UpgradeRequest::new(PATH)?;
        if let Some(name) = &self.name {
            request = request.header(NAME, name.as_str())?;
        }
        if let Some((key, provider)) = &self.token {
            let AuthorizerToken { token, signature } = provider();
            if let Some(signature) = signature {
                request = request.header(SIGNATURE, signature)?;
            }
            request = request.header(key.as_str(), token)?;
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Authorizer {
        let token = AuthorizerToken {
            token: "canary token".into(),
            signature: Some("canary/+=".into()),
        };
        Authorizer::named("gate").user("u").token("key", token)
    }

    #[test]
    fn the_user_name_carries_the_parameters_percent_encoded() {
        assert_eq!(
            signed().username(),
            "u?x-amz-customauthorizer-name=gate&x-amz-customauthorizer-signature=canary%2F%2B%3D&key=canary%20token"
        );
        assert_eq!(Authorizer::of_the_account().username(), "");
        assert_eq!(
            Authorizer::named("a b").username(),
            "?x-amz-customauthorizer-name=a%20b"
        );
        assert_eq!(
            Authorizer::named("gate").user("u?x=y").username(),
            "u?x=y&x-amz-customauthorizer-name=gate"
        );
    }

    #[test]
    fn no_secret_is_printed() {
        let authorizer = signed().password("canary password");
        let printed = format!(
            "{authorizer:?} {:?} {:?}",
            authorizer.credentials(),
            authorizer.request().unwrap()
        );
        assert!(!printed.contains("canary"), "{printed}");
        assert!(printed.contains("gate"));
    }

    #[test]
    fn what_no_header_can_hold_is_refused() {
        let token = AuthorizerToken {
            token: "canary\r\nX: y".into(),
            signature: None,
        };
        let error = Authorizer::named("gate")
            .token("key", token)
            .request()
            .unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
