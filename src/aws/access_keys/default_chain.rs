//! The default chain of credential providers of the AWS SDK for Rust.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use paquebot_protocols::dialect::aws::signature::AccessKey;
use tokio::sync::watch;

use super::{AccessKeyError, AccessKeys};

/// A key that ends sooner than this is asked for anew. Whoever hands them out has another one by then.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);

type Resolved = Result<AccessKey, AccessKeyError>;

impl AccessKeys {
    /// What the AWS SDK's default chain finds: the environment, profiles (SSO, assumed roles and processes among them),
    /// web identity, containers (ECS, EKS) and EC2's instance metadata, in this order.
    ///
    /// The chain is gone through anew at every connect attempt, unless the key of the time before holds for another five
    /// minutes; attempts at the same time go through it once, and what it finds too late for one is there for the next. Where nothing is found it asks EC2's instance metadata,
    /// which takes seconds elsewhere: set `AWS_EC2_METADATA_DISABLED=true` there. All of it counts towards the deadline
    /// of the WebSocket stage. `AWS_PROFILE` names the profile, and `AWS_REGION` the region of the token service.
    ///
    /// Clones share the key; make one for all groups.
    #[must_use]
    pub fn default_chain() -> Self {
        let chain = Arc::new(Chain::default());
        Self::provider(move || {
            let chain = Arc::clone(&chain);
            Box::pin(async move { chain.key(resolve_here).await })
        })
    }
}

#[derive(Default)]
struct Chain(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    /// The one pass that is under way: whoever asks meanwhile waits for it too.
    pass: Option<watch::Receiver<Option<Resolved>>>,
    /// The last key, while it holds.
    key: Option<AccessKey>,
    /// What a pass found after everybody had stopped waiting: the next one who asks takes it.
    unclaimed: Option<Resolved>,
}

impl Chain {
    async fn key(self: &Arc<Self>, resolve: fn() -> Resolved) -> Resolved {
        let mut pass = {
            let mut progress = self.progress();
            if let Some(key) = progress.key.as_ref().filter(|key| holds(key)) {
                return Ok(key.clone());
            }
            if let Some(resolved) = progress.unclaimed.take() {
                return resolved;
            }
            match &progress.pass {
                Some(pass) => pass.clone(),
                None => progress.pass.insert(self.begin(resolve)?).clone(),
            }
        };
        // The other end is dropped unused only by a panic of the SDK.
        let ended = pass.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(resolved)) => resolved.clone(),
            _ => {
                self.progress().pass = None;
                Err(failed("the AWS SDK gave up in the middle"))
            }
        }
    }

    /// On a thread that lives as long as the question: loading the system's certificates, among others, blocks, and what
    /// the SDK leaves running must not outlive a link's worker or hold up its end. It goes on when a connect attempt that
    /// waits for it is given up.
    fn begin(
        self: &Arc<Self>,
        resolve: fn() -> Resolved,
    ) -> Result<watch::Receiver<Option<Resolved>>, AccessKeyError> {
        let (done, pass) = watch::channel(None);
        let chain = Arc::clone(self);
        let work = move || {
            let resolved = resolve();
            let mut progress = chain.progress();
            // Those who wait have receivers of their own.
            progress.pass = None;
            progress.key = resolved.as_ref().ok().cloned();
            progress.unclaimed = (done.receiver_count() == 0).then(|| resolved.clone());
            done.send_replace(Some(resolved));
        };
        std::thread::Builder::new()
            .name("paquebot-aws-credentials".into())
            .spawn(work)
            .map_err(failed)?;
        Ok(pass)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> AccessKeyError {
    AccessKeyError::Provider(Arc::from(error.into()))
}

/// Whether a key is to be used again. One without an end is in the environment or in a file, where another may be.
fn holds(key: &AccessKey) -> bool {
    let renewed = SystemTime::now().checked_add(RENEWED_BEFORE);
    key.expires_at
        .zip(renewed)
        .is_some_and(|(end, renewed)| end > renewed)
}

/// Goes through the chain, however long that takes.
fn resolve_here() -> Resolved {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(resolve())
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

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
    fn whoever_asks_during_a_pass_waits_for_it_and_what_comes_too_late_is_there_for_the_next() {
        static PASSES: AtomicUsize = AtomicUsize::new(0);
        static GATE: Mutex<()> = Mutex::new(());
        fn slow() -> Resolved {
            PASSES.fetch_add(1, Ordering::SeqCst);
            let _open = GATE.lock();
            Ok(AccessKey {
                id: "ID".to_owned(),
                secret: "canary".into(),
                session_token: None,
                expires_at: None,
            })
        }
        let chain = Arc::new(Chain::default());
        let closed = GATE.lock();
        let mut asking: Vec<_> = (0..200).map(|_| Box::pin(chain.key(slow))).collect();
        for one in &mut asking {
            assert!(one.now_or_never().is_none());
        }
        // Every one of them gives up.
        drop(asking);
        drop(closed);
        while chain.progress().pass.is_some() {
            std::thread::yield_now();
        }
        let taken = chain.key(slow).now_or_never();
        assert!(taken.is_some_and(|resolved| resolved.is_ok()));
        assert_eq!(PASSES.load(Ordering::SeqCst), 1);
        // A key without an end is used by those who asked for it only.
        let later = futures_util::future::join(chain.key(slow), chain.key(slow));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let (one, two) = runtime.unwrap().block_on(later);
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(PASSES.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_is_behind_an_error_is_told_with_it() {
        let cause = std::io::Error::other("no route to 169.254.169.254");
        let error = CredentialsError::provider_error(cause);
        let told = with_sources(&error);
        assert!(told.ends_with(": no route to 169.254.169.254"), "{told}");
    }
}
