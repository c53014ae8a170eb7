//! Provisioning templates: what a device's parameters make of it.

use std::collections::BTreeMap;
use std::fmt;

/// What a device asks to become.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProvisioningRequest {
    /// What it says of itself.
    pub parameters: BTreeMap<String, String>,
    /// The certificate that it has from this service.
    pub certificate_id: String,
}

/// What a device becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// The name of the thing, which must be one that AWS allows.
    pub thing_name: String,
    /// What the device is told to set.
    pub device_configuration: BTreeMap<String, String>,
}

/// Why a template does not take a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationRefusal {
    /// A parameter that the template needs is missing or not usable.
    BadParameter(String),
    /// The hook that decides about devices does not know this one.
    NotAllowed,
}

type Hook =
    Box<dyn FnMut(&ProvisioningRequest) -> Result<Registration, RegistrationRefusal> + Send>;

/// A provisioning template.
pub struct ProvisioningTemplate {
    hook: Hook,
}

impl ProvisioningTemplate {
    /// A template that names the thing after a parameter, with a prefix, and tells each device the same.
    #[must_use]
    pub fn named_after(
        parameter: impl Into<String>,
        prefix: impl Into<String>,
        device_configuration: BTreeMap<String, String>,
    ) -> Self {
        let (parameter, prefix) = (parameter.into(), prefix.into());
        Self::with_hook(move |request| {
            let Some(value) = request.parameters.get(&parameter) else {
                let message = format!("Missing required parameter: {parameter}");
                return Err(RegistrationRefusal::BadParameter(message));
            };
            Ok(Registration {
                thing_name: format!("{prefix}{value}"),
                device_configuration: device_configuration.clone(),
            })
        })
    }

    /// A template that asks for each device, as AWS's pre-provisioning hooks do.
    #[must_use]
    pub fn with_hook(
        hook: impl FnMut(&ProvisioningRequest) -> Result<Registration, RegistrationRefusal>
        + Send
        + 'static,
    ) -> Self {
        Self {
            hook: Box::new(hook),
        }
    }

    pub(crate) fn register(
        &mut self,
        request: &ProvisioningRequest,
    ) -> Result<Registration, RegistrationRefusal> {
        (self.hook)(request)
    }
}

impl fmt::Debug for ProvisioningTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvisioningTemplate")
            .finish_non_exhaustive()
    }
}
