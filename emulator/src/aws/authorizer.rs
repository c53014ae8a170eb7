//! Custom authorizers, as far as a device sees them.
//!
//! Source: "Custom authentication and authorization" in the AWS IoT Core Developer Guide.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::remarks::Quoted;

/// Under what a client names its authorizer and sends a token's signature.
pub(crate) const NAME: &str = "x-amz-customauthorizer-name";
const SIGNATURE: &str = "x-amz-customauthorizer-signature";

/// Why a public key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The text is no PEM of a public key.
    #[error("the public key is not readable: {0}; give a block `-----BEGIN PUBLIC KEY-----`")]
    BadPem(rustls_pki_types::pem::Error),
    /// The key is none of RSA.
    #[error("the public key is not one of RSA with 2,048 to 8,192 bits, which AWS wants it to be")]
    NotRsa,
}

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
    /// The token's signature, in the form in which the client sends it. It is compared and no cryptography
    /// is done; that is [`Authorizer::signed_token`].
    pub signature: Option<String>,
    /// The MQTT user name, without its query.
    pub username: Option<String>,
    /// The MQTT password.
    pub password: Option<Vec<u8>>,
    /// The token's key, and the DER of the public key that its signature is checked with.
    signing: Option<(String, Vec<u8>)>,
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

    /// Asks for any token under this key, with its signature: RSA with SHA-256 and the padding of PKCS #1
    /// v1.5 over the token's bytes, in Base64, as an authorizer of AWS with token signing does. The public
    /// key is in PEM, `-----BEGIN PUBLIC KEY-----`.
    ///
    /// A pair of keys, and a signature, from a shell:
    ///
    /// ```text
    /// openssl genrsa -out private.pem 2048
    /// openssl rsa -in private.pem -pubout -out public.pem
    /// printf %s "$token" | openssl dgst -sha256 -sign private.pem | openssl base64 -A
    /// ```
    ///
    /// # Errors
    /// A text that is no public key of RSA.
    pub fn signed_token(
        mut self,
        key: impl Into<String>,
        public_key_pem: &str,
    ) -> Result<Self, PublicKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(public_key_pem.as_bytes())
            .map_err(PublicKeyError::BadPem)?;
        let der = der.as_ref().to_vec();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &der)
            .parse()
            .map_err(|_| PublicKeyError::NotRsa)?;
        self.signing = Some((key.into(), der));
        Ok(self)
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

    /// Looks at the token and its signature.
    ///
    /// # Errors
    /// What is wrong, without the token.
    pub(crate) fn check(&self, find: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        let name = &self.name;
        let token_of = |key: &str| {
            find(key).ok_or_else(|| {
                format!(
                    "it sends custom authorizer {name:?} no token under {}",
                    Quoted(key)
                )
            })
        };
        if let Some((key, token)) = &self.token
            && token_of(key)? != *token
        {
            return Err(format!(
                "the token under {} is not the one that custom authorizer {name:?} wants",
                Quoted(key)
            ));
        }
        if self.signature.is_none() && self.signing.is_none() {
            return Ok(());
        }
        let given = find(SIGNATURE)
            .ok_or_else(|| format!("it sends custom authorizer {name:?} no {SIGNATURE}"))?;
        if self
            .signature
            .as_ref()
            .is_some_and(|wanted| *wanted != given)
        {
            return Err(format!(
                "the token's signature is not the one that custom authorizer {name:?} wants"
            ));
        }
        let Some((key, public_key)) = &self.signing else {
            return Ok(());
        };
        let token = token_of(key)?;
        let signature = BASE64_STANDARD.decode(&given).map_err(|_| {
            "the token's signature is no Base64; in a user name it has to be percent-encoded, with + as %2B"
                .to_owned()
        })?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key)
            .verify(token.as_bytes(), &signature)
            .map_err(|_| {
                format!(
                    "the signature of the token under {} is not of the private key that belongs to the public \
                     key of custom authorizer {name:?} (RSA with SHA-256, PKCS #1 v1.5, over the token alone)",
                    Quoted(key)
                )
            })
    }

    /// Looks at the user name and the password of a CONNECT.
    ///
    /// # Errors
    /// What is wrong, without either.
    pub(crate) fn check_login(&self, user: &str, password: Option<&[u8]>) -> Result<(), String> {
        let refuse = |what| {
            let name = &self.name;
            Err(format!(
                "its {what} is not the one that custom authorizer {name:?} wants"
            ))
        };
        if self.username.as_ref().is_some_and(|wanted| wanted != user) {
            return refuse("user name");
        }
        match &self.password {
            Some(wanted) if Some(wanted.as_slice()) != password => refuse("password"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
