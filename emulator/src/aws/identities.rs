//! Who gets in without a client certificate: access keys of IAM and custom authorizers.

use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use super::signature::{AccessKey, SignatureError, Signed, parse_query, verify};

/// A custom authorizer that lets in whoever shows what it asks for; what it does not ask for may be
/// anything.
///
/// A client names it in the query of its user name, or in the query or the headers of a WebSocket upgrade:
/// `x-amz-customauthorizer-name`, `x-amz-customauthorizer-signature` and the token under its key.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authorizer {
    /// Its name.
    pub name: String,
    /// The token's key and the token.
    pub token: Option<(String, String)>,
    /// The token's signature, in the form in which the client sends it; the emulator compares it and does
    /// no cryptography.
    pub signature: Option<String>,
    /// The MQTT user name, without its query.
    pub username: Option<String>,
    /// The MQTT password.
    pub password: Option<Vec<u8>>,
}

impl Authorizer {
    /// An authorizer that asks for nothing but its name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Asks for a token under this key.
    #[must_use]
    pub fn token(mut self, key: impl Into<String>, token: impl Into<String>) -> Self {
        self.token = Some((key.into(), token.into()));
        self
    }

    /// Asks for the token's signature.
    #[must_use]
    pub fn signature(mut self, signature: impl Into<String>) -> Self {
        self.signature = Some(signature.into());
        self
    }

    /// Asks for a user name.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Asks for a password.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(password.into());
        self
    }

    fn accepts(&self, find: &dyn Fn(&str) -> Option<String>) -> bool {
        let is_token_right = self
            .token
            .as_ref()
            .is_none_or(|(key, token)| find(key).as_ref() == Some(token));
        let given = find("x-amz-customauthorizer-signature");
        is_token_right && (self.signature.is_none() || self.signature == given)
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a user name says besides the name: `user?SDK=…&x-amz-customauthorizer-name=…`. The first generation
/// of the SDK puts its metrics behind a second `?`.
pub(crate) fn split_username(username: &str) -> (&str, Vec<(String, String)>) {
    let (name, query) = username.split_once('?').unwrap_or((username, ""));
    let pairs = query.split('?').flat_map(parse_query).collect();
    (name, pairs)
}

#[derive(Debug, Default)]
pub(crate) struct Identities {
    keys: RwLock<Vec<AccessKey>>,
    authorizers: RwLock<Vec<Authorizer>>,
}

impl Identities {
    pub(crate) fn add_key(&self, key: AccessKey) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| known.id != key.id);
        keys.push(key);
    }

    pub(crate) fn remove_key(&self, id: &str) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| known.id != id);
    }

    pub(crate) fn add_authorizer(&self, authorizer: Authorizer) {
        let mut all = self
            .authorizers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.name != authorizer.name);
        all.push(authorizer);
    }

    /// The access key that signed a request.
    pub(crate) fn signer(&self, request: &Signed<'_>) -> Result<String, SignatureError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        verify(request, &keys, SystemTime::now()).map(str::to_owned)
    }

    /// Asks the authorizer that an upgrade names, if it names one: its name when the client may go on to
    /// CONNECT. A password is looked at there.
    pub(crate) fn authorize_upgrade(
        &self,
        find: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Result<String, ()>> {
        let name = find("x-amz-customauthorizer-name")?;
        let all = self
            .authorizers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let authorizer = all.iter().find(|known| known.name == name);
        Some(match authorizer {
            Some(authorizer) if authorizer.accepts(find) => Ok(name),
            _ => Err(()),
        })
    }

    /// Asks the authorizer that a CONNECT names, or the only one there is: its name when the client may in.
    pub(crate) fn authorize_connect(
        &self,
        username: Option<&str>,
        password: Option<&[u8]>,
    ) -> Option<String> {
        let (user, pairs) = split_username(username.unwrap_or_default());
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let all = self
            .authorizers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let authorizer = match (find("x-amz-customauthorizer-name"), all.as_slice()) {
            (Some(name), all) => all.iter().find(|known| known.name == name)?,
            // AWS has a default authorizer for clients that name none.
            (None, [only]) => only,
            (None, _) => return None,
        };
        let is_user_right = authorizer
            .username
            .as_ref()
            .is_none_or(|wanted| wanted == user);
        let is_password_right = authorizer
            .password
            .as_ref()
            .is_none_or(|wanted| Some(wanted.as_slice()) == password);
        (is_user_right && is_password_right && authorizer.accepts(&find))
            .then(|| authorizer.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_is_split_even_where_the_sdk_wrote_two_question_marks() {
        let (name, pairs) = split_username("u?x=y?SDK=Python&Version=1.6.2");
        assert_eq!(name, "u");
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x", "SDK", "Version"]);
        assert_eq!(split_username("plain"), ("plain", Vec::new()));
    }

    #[test]
    fn an_authorizer_wants_all_that_it_asks_for() {
        let identities = Identities::default();
        let authorizer = Authorizer::new("gate")
            .token("tok", "t1")
            .signature("a+b=")
            .password("pw");
        identities.add_authorizer(authorizer);
        let good = "u?x-amz-customauthorizer-name=gate\
                    &x-amz-customauthorizer-signature=a%2Bb%3D&tok=t1";
        let ask = |username: &str, password: &[u8]| {
            identities.authorize_connect(Some(username), Some(password))
        };
        assert_eq!(ask(good, b"pw").as_deref(), Some("gate"));
        assert_eq!(ask(good, b"other"), None);
        assert_eq!(ask(&good.replace("tok=t1", "tok=t2"), b"pw"), None);
        assert_eq!(ask(&good.replace("name=gate", "name=wall"), b"pw"), None);
        assert_eq!(ask(&good.replace("a%2Bb", "a%2Bc"), b"pw"), None);
        assert!(!format!("{identities:?}").contains("t1"));
    }
}
