//! Who gets in without a client certificate: access keys of IAM and custom authorizers.

use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use super::authorizer::{Authorizer, NAME};
use super::signature::{AccessKey, Mistake, Signed, parse_query, verify};
use crate::remarks::Quoted;

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

    /// The access key that signed a request for a region.
    ///
    /// # Errors
    /// What is wrong with its signature.
    pub(crate) fn signer(&self, request: &Signed<'_>, region: &str) -> Result<String, Mistake> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        verify(request, &keys, region, SystemTime::now()).map(str::to_owned)
    }

    /// Asks the authorizer that an upgrade names, if it names one: its name when the client may go on to
    /// CONNECT, or why it may not. A password is looked at there.
    pub(crate) fn authorize_upgrade(
        &self,
        find: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Result<String, String>> {
        let name = find(NAME)?;
        let all = self
            .authorizers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let authorizer = all.iter().find(|known| known.name == name);
        Some(match authorizer {
            Some(authorizer) => authorizer.check(find).map(|()| name),
            None => Err(unknown(&name)),
        })
    }

    /// Asks the authorizer that a CONNECT names, or the only one there is: its name when the client may in.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn authorize_connect(
        &self,
        username: Option<&str>,
        password: Option<&[u8]>,
    ) -> Result<String, String> {
        let (user, pairs) = split_username(username.unwrap_or_default());
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let all = self
            .authorizers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let authorizer = match (find(NAME), all.as_slice()) {
            (Some(name), all) => all
                .iter()
                .find(|known| known.name == name)
                .ok_or_else(|| unknown(&name))?,
            // AWS has a default authorizer for clients that name none.
            (None, [only]) => only,
            (None, _) => {
                return Err("it has no certificate and names no custom authorizer".to_owned());
            }
        };
        authorizer.check_login(user, password)?;
        authorizer.check(&find)?;
        Ok(authorizer.name.clone())
    }
}

fn unknown(name: &str) -> String {
    format!("there is no custom authorizer {}", Quoted(name))
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
        assert_eq!(ask(good, b"pw").as_deref(), Ok("gate"));
        for (username, password, says) in [
            (good.to_owned(), &b"other"[..], "password"),
            (
                good.replace("tok=t1", "tok=t2"),
                b"pw",
                "token under \"tok\"",
            ),
            (good.replace("tok=t1", "tok=t2"), b"pw", "not the one"),
            (
                good.replace("tok=t1", "tik=t1"),
                b"pw",
                "no token under \"tok\"",
            ),
            (good.replace("name=gate", "name=wall"), b"pw", "\"wall\""),
            (good.replace("a%2Bb", "a%2Bc"), b"pw", "signature"),
        ] {
            let why = ask(&username, password).unwrap_err();
            assert!(why.contains(says), "{why:?} for {username}");
            assert!(!why.contains("t1") && !why.contains("t2"), "{why}");
        }
        assert!(!format!("{identities:?}").contains("t1"));
    }
}
