//! `-U`: filters to take out of the session that the server has kept.

use std::collections::HashSet;
use std::pin::Pin;

use paquebot::{Link, SubscribeError, UnsubscribeAnswer, Unsubscribed};
use paquebot_protocols::mqtt::{self, ReasonCode, TopicFilter};

use crate::cli::CommandError;
use crate::cli::client::{Watch, usage};

type Answers = Result<Vec<Unsubscribed>, SubscribeError>;

/// The filters, until the server has answered for all of them.
pub(super) struct Unsubscribing(Option<Pin<Box<dyn Future<Output = Answers>>>>);

/// The filters of `-U`, each once.
///
/// # Errors
/// The session is not one that is kept, or a filter is to be subscribed as well.
pub(super) fn check(
    filters: Vec<TopicFilter>,
    subscriptions: &[mqtt::Subscription],
    keeps_session: bool,
) -> Result<Vec<TopicFilter>, CommandError> {
    if !filters.is_empty() && !keeps_session {
        return Err(usage(
            "-U unsubscribes in a session that the server has kept: name it with -c and -i",
        ));
    }
    if let Some(both) = filters
        .iter()
        .find(|filter| subscriptions.iter().any(|other| other.filter == **filter))
    {
        return Err(usage(format!(
            "{both} is both subscribed (-t) and unsubscribed (-U)"
        )));
    }
    let mut known = HashSet::new();
    let mut filters = filters;
    filters.retain(|filter| known.insert(filter.clone()));
    Ok(filters)
}

impl Unsubscribing {
    pub(super) fn start(link: &Link, filters: Vec<TopicFilter>) -> Self {
        let link = link.clone();
        let answers = async move { link.unsubscribe_all(filters).await };
        Self(Some(Box::pin(answers)))
    }

    pub(super) const fn none() -> Self {
        Self(None)
    }

    pub(super) const fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the answers, for ever when nothing is asked.
    pub(super) async fn answers(&mut self) -> Answers {
        match &mut self.0 {
            Some(answers) => {
                let answers = answers.await;
                self.0 = None;
                answers
            }
            None => std::future::pending().await,
        }
    }
}

/// Says what did not go as it should; gives how many filters the server refused.
///
/// # Errors
/// The server refused a filter and there is nothing else to do.
pub(super) fn judge(answers: Answers, is_all: bool, watch: &Watch) -> Result<usize, CommandError> {
    let answers = answers.map_err(|error| CommandError::Failed(error.to_string()))?;
    let mut refusals = Vec::new();
    for Unsubscribed { filter, answer } in answers {
        match answer {
            UnsubscribeAnswer::Answered(ReasonCode::NO_SUBSCRIPTION_EXISTED) => {
                watch.note(&format!("the session had no subscription to {filter}"));
            }
            UnsubscribeAnswer::Answered(code) if code.is_error() => {
                refusals.push(format!("the server did not unsubscribe {filter}: {code}"));
            }
            _ => {}
        }
    }
    if is_all && !refusals.is_empty() {
        return Err(CommandError::Failed(refusals.join("; ")));
    }
    for refusal in &refusals {
        watch.note(refusal);
    }
    Ok(refusals.len())
}
