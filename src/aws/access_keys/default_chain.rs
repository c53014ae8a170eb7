//! The default chain of credential providers of the AWS SDK for Rust.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use paquebot_protocols::dialect::aws::signature::AccessKey;
use tokio::sync::{Mutex, oneshot};

use super::{AccessKeyError, AccessKeys};

/// A key that ends sooner than this is asked for anew. Whoever hands them out has another one by then.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

type Resolved = Result<AccessKey, AccessKeyError>;

impl AccessKeys {
    /// What the AWS SDK's default chain finds: the environment, profiles (SSO, assumed roles and processes among them),
    /// web identity, containers (ECS, EKS) and EC2's instance metadata, in this order.
    ///
    /// The chain is gone through anew at every connect attempt, unless the key of the time before holds for another five
    /// minutes; attempts at the same time go through it once. Where nothing is found it asks EC2's instance metadata,
    /// which takes seconds elsewhere: set `AWS_EC2_METADATA_DISABLED=true` there. All of it counts towards the deadline
    /// of the WebSocket stage. `AWS_PROFILE` names the profile, and `AWS_REGION` the region of the token service.
    ///
    /// Clones share the key; make one for all groups.
    #[must_use]
    pub fn default_chain() -> Self {
        let chain = Arc::new(Chain::default());
        Self::provider(move || {
            let chain = Arc::clone(&chain);
            Box::pin(async move { chain.key().await })
        })
    }
}

#[derive(Default)]
struct Chain {
    /// How often the chain was gone through.
    begun: AtomicU64,
    /// The last time that ended, and what came of it. Held while it is gone through: others wait for the same.
    last: Mutex<Option<(u64, Resolved)>>,
}

impl Chain {
    async fn key(&self) -> Resolved {
        let asked = self.begun.load(Ordering::Relaxed);
        let mut last = self.last.lock().await;
        if let Some((number, resolved)) = &*last
            && (*number > asked || resolved.as_ref().is_ok_and(holds))
        {
            return resolved.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let resolved = resolve_apart().await;
        *last = Some((number, resolved.clone()));
        resolved
    }
}

/// Whether a key is to be used again. One without an end is in the environment or in a file, where another may be.
fn holds(key: &AccessKey) -> bool {
    let renewed = SystemTime::now().checked_add(RENEWED_BEFORE);
    key.expires_at
        .zip(renewed)
        .is_some_and(|(end, renewed)| end > renewed)
}

/// On a thread that lives as long as the question: loading the system's certificates, among others, blocks, and what the
/// SDK leaves running must not outlive a link's worker or hold up its end.
async fn resolve_apart() -> Resolved {
    let (done, resolved) = oneshot::channel();
    let failed = |error: Arc<dyn Error + Send + Sync>| AccessKeyError::Provider(error);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let resolved = match runtime {
            Ok(runtime) => runtime.block_on(resolve()),
            Err(error) => Err(failed(Arc::new(error))),
        };
        let _ = done.send(resolved);
    };
    std::thread::Builder::new()
        .name("paquebot-aws-credentials".into())
        .spawn(work)
        .map_err(|error| failed(Arc::new(error)))?;
    resolved
        .await
        .unwrap_or_else(|error| Err(failed(Arc::new(error))))
}

async fn resolve() -> Resolved {
    let settings = aws_config::defaults(BehaviorVersion::latest()).load().await;
    let Some(chain) = settings.credentials_provider() else {
        let looked = vec!["the default chain is empty".to_owned()];
        return Err(AccessKeyError::NotFound { looked });
    };
    let key = chain.provide_credentials().await.map_err(|error| {
        let told = with_sources(&error);
        match error {
            // What is set wrongly does not pass by itself.
            CredentialsError::CredentialsNotLoaded(_)
            | CredentialsError::InvalidConfiguration(_) => AccessKeyError::NotFound {
                looked: vec![format!("the AWS SDK's default chain: {told}")],
            },
            _ => AccessKeyError::Provider(Arc::new(std::io::Error::other(told))),
        }
    })?;
    Ok(AccessKey {
        id: key.access_key_id().to_owned(),
        secret: key.secret_access_key().into(),
        session_token: key.session_token().map(Into::into),
        expires_at: key.expiry(),
    })
}

/// An error of the SDK says nothing without what is behind it.
fn with_sources(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told.push_str(": ");
        told.push_str(&error.to_string());
        source = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_again_while_it_holds_for_five_minutes_more() {
        let ending = |seconds: Option<u64>| AccessKey {
            id: "ID".to_owned(),
            secret: "canary".into(),
            session_token: None,
            expires_at: seconds.map(|seconds| SystemTime::now() + Duration::from_secs(seconds)),
        };
        assert!(holds(&ending(Some(360))));
        assert!(!holds(&ending(Some(300))));
        assert!(!holds(&ending(Some(0))));
        // Such a key may be another one at any time.
        assert!(!holds(&ending(None)));
    }

    #[test]
    fn what_is_behind_an_error_is_told_with_it() {
        let cause = std::io::Error::other("no route to 169.254.169.254");
        let error = CredentialsError::provider_error(cause);
        let told = with_sources(&error);
        assert!(told.ends_with(": no route to 169.254.169.254"), "{told}");
    }
}
