//! Faults of the services, for tests: what a device must live with and AWS rarely does on demand.

use std::collections::{BTreeMap, VecDeque};

/// What a service does or says, as far as a fault can aim at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// `shadow/get` and its answer.
    ShadowGet,
    /// `shadow/update` and its answer.
    ShadowUpdate,
    /// `shadow/delete` and its answer.
    ShadowDelete,
    /// The list of a thing's named shadows, by HTTP.
    ShadowList,
    /// The event `shadow/update/delta`.
    ShadowDelta,
    /// The event `shadow/update/documents`.
    ShadowDocuments,
    /// `jobs/get` and its answer.
    JobsGetPending,
    /// `jobs/start-next` and its answer.
    JobsStartNext,
    /// `jobs/<jobId>/get` and its answer.
    JobDescribe,
    /// `jobs/<jobId>/update` and its answer.
    JobUpdate,
    /// The event `jobs/notify`.
    JobsNotify,
    /// The event `jobs/notify-next`.
    JobsNotifyNext,
    /// `certificates/create` and its answer.
    CreateKeysAndCertificate,
    /// `certificates/create-from-csr` and its answer.
    CreateCertificateFromCsr,
    /// `provisioning-templates/<template>/provision` and its answer.
    RegisterThing,
    /// `defender/metrics` and its answer.
    DefenderMetrics,
    /// Greengrass discovery, by HTTP.
    Discovery,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceFault {
    /// The request is refused and not carried out. An event is not sent.
    Reject {
        /// The status: a shadow's `code`, provisioning's `statusCode`, HTTP's own.
        status: u16,
        /// The word of services that refuse with one: a job's `code`, provisioning's `errorCode`, Device
        /// Defender's `ErrorCode`. Shadows pass it over.
        code: String,
        /// The text for people.
        message: String,
    },
    /// The message is not sent; the request is carried out. Over HTTP the answer is sent all the same.
    Drop,
    /// The message is sent twice.
    Duplicate,
    /// The message has a client token that nobody chose.
    WrongToken,
    /// The document's version, or the execution's, is less than it is.
    VersionBackwards {
        /// By how much; not below 0.
        by: u64,
    },
    /// The message is cut off in the middle of its JSON or CBOR.
    Malformed,
}

/// The faults that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct ServiceFaults {
    waiting: BTreeMap<Operation, VecDeque<(ServiceFault, u32)>>,
}

impl ServiceFaults {
    pub(crate) fn inject(&mut self, operation: Operation, fault: ServiceFault, times: u32) {
        if times > 0 {
            let waiting = self.waiting.entry(operation).or_default();
            waiting.push_back((fault, times));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The fault that the next message of a kind, or the next request, meets.
    pub(crate) fn take(&mut self, operation: Operation) -> Option<ServiceFault> {
        let waiting = self.waiting.get_mut(&operation)?;
        let (fault, times) = waiting.front_mut()?;
        *times -= 1;
        if *times > 0 {
            return Some(fault.clone());
        }
        waiting.pop_front().map(|(fault, _)| fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_met_in_the_order_and_number_they_were_asked_for() {
        let mut faults = ServiceFaults::default();
        faults.inject(Operation::ShadowGet, ServiceFault::Drop, 2);
        faults.inject(Operation::ShadowGet, ServiceFault::Malformed, 1);
        faults.inject(Operation::ShadowGet, ServiceFault::Duplicate, 0);
        assert_eq!(faults.take(Operation::ShadowUpdate), None);
        let met: Vec<_> = (0..4).map(|_| faults.take(Operation::ShadowGet)).collect();
        assert_eq!(
            met,
            [
                Some(ServiceFault::Drop),
                Some(ServiceFault::Drop),
                Some(ServiceFault::Malformed),
                None
            ]
        );
    }

    #[test]
    fn faults_that_are_cleared_are_not_met() {
        let mut faults = ServiceFaults::default();
        faults.inject(Operation::JobUpdate, ServiceFault::Drop, 9);
        faults.clear();
        assert_eq!(faults.take(Operation::JobUpdate), None);
    }
}
