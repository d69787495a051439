//! One admission review: from its bytes to its answer. A function of both and of the injector, so
//! that tests and the fuzz target need no server. Only where claims lead is asked for elsewhere,
//! by whoever calls ([`Review::claims`]).

use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::{DynamicObject, Status as ApiStatus};
use serde_json::Value;

use crate::inject::{Injector, Scope, Status, is_sealed};
use crate::names::{self, paths};
use crate::refusal::{Fault, Reason, Refusal};
use crate::validate;

/// Most commas, brackets and braces in a review, which bound how many values it has: each may take
/// in memory a hundred times what it takes in the text. No pod that etcd would store has as many.
const MOST_MARKS: usize = 250_000;

/// What a webhook is asked, by its path.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Task {
    /// To seal a pod.
    Mutate(Scope),
    /// Whether a pod is sealed, and stays so.
    Validate(Scope),
    /// A pod that asks to be sealed where nothing would seal it.
    Stray,
    /// A change of a sealed namespace's ConfigMap.
    Config,
}

/// A review that is being answered.
#[derive(Debug)]
pub struct Review {
    task: Task,
    request: AdmissionRequest<DynamicObject>,
    object: Option<Value>,
    old: Option<Value>,
}

/// The answer, and what to count.
#[derive(Debug)]
pub struct Answer {
    /// What goes back.
    pub response: AdmissionResponse,
    /// How it went.
    pub outcome: Outcome,
}

/// How a review went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The pod was sealed, or is.
    Pod(Status),
    /// It is none of the injector's business.
    Untouched,
    /// It was refused.
    Refused(Refusal),
}

/// Why a review cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is no review.
    #[error("no AdmissionReview of admission.k8s.io/v1: {0}")]
    Malformed(serde_json::Error),
    /// It has more values than any pod.
    #[error("more than {MOST_MARKS} commas, brackets and braces: no pod has as many values")]
    Crowded,
    /// It is one of another version, or has no request.
    #[error("no request of admission.k8s.io/v1 in it, but of {0:?}")]
    Version(String),
    /// What was answered could not be written.
    #[error("the patch could not be written: {0}")]
    Patch(String),
}

impl Task {
    /// Every task there is.
    pub const ALL: [Self; 6] = [
        Self::Mutate(Scope::Namespace),
        Self::Mutate(Scope::Pod),
        Self::Validate(Scope::Namespace),
        Self::Validate(Scope::Pod),
        Self::Stray,
        Self::Config,
    ];

    /// The task of a path.
    pub fn of(path: &str) -> Option<Self> {
        Some(match path {
            paths::MUTATE_NAMESPACE => Self::Mutate(Scope::Namespace),
            paths::MUTATE_POD => Self::Mutate(Scope::Pod),
            paths::VALIDATE_NAMESPACE => Self::Validate(Scope::Namespace),
            paths::VALIDATE_POD => Self::Validate(Scope::Pod),
            paths::VALIDATE_STRAY => Self::Stray,
            paths::VALIDATE_CONFIG => Self::Config,
            _ => return None,
        })
    }

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Mutate(_) => "mutate",
            Self::Validate(_) => "validate",
            Self::Stray => "stray",
            Self::Config => "config",
        }
    }
}

impl Review {
    /// Reads a review. What is nested deeper than 128 is refused by the parser.
    ///
    /// # Errors
    /// [`ReviewError`] when it is none.
    pub fn read(task: Task, bytes: &[u8]) -> Result<Self, ReviewError> {
        let marks = bytes
            .iter()
            .filter(|byte| matches!(byte, b',' | b'[' | b'{'));
        if marks.count() > MOST_MARKS {
            return Err(ReviewError::Crowded);
        }
        let review: AdmissionReview<DynamicObject> =
            serde_json::from_slice(bytes).map_err(ReviewError::Malformed)?;
        let version = review.types.api_version.clone();
        if version != "admission.k8s.io/v1" {
            return Err(ReviewError::Version(version));
        }
        let mut request: AdmissionRequest<DynamicObject> = review
            .try_into()
            .map_err(|_| ReviewError::Version(version))?;
        let value = |object: Option<DynamicObject>| {
            object
                .map(serde_json::to_value)
                .transpose()
                .map_err(ReviewError::Malformed)
        };
        Ok(Self {
            task,
            object: value(request.object.take())?,
            old: value(request.old_object.take())?,
            request,
        })
    }

    /// The review's own id, for logs.
    pub fn uid(&self) -> &str {
        &self.request.uid
    }

    /// The namespace it is about.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's name, or what its name will begin with.
    pub fn name(&self) -> &str {
        if !self.request.name.is_empty() {
            return &self.request.name;
        }
        let generated = self
            .object
            .as_ref()
            .and_then(|pod| pod.pointer("/metadata/generateName"));
        generated.and_then(Value::as_str).unwrap_or_default()
    }

    /// Claims that have to be followed before the answer is given, with their fields: those of a
    /// pod that is to be created sealed.
    pub fn claims(&self) -> Vec<(String, String)> {
        let created = self.request.operation == Operation::Create;
        match (&self.object, self.task) {
            (Some(pod), Task::Validate(_)) if created && is_sealed(pod) => validate::claims(pod),
            _ => Vec::new(),
        }
    }

    /// The answer. `claims` is what following the claims has found.
    ///
    /// # Errors
    /// [`ReviewError`] when the answer cannot be written.
    pub fn answer(
        &self,
        injector: &Injector,
        claims: Result<(), Refusal>,
    ) -> Result<Answer, ReviewError> {
        let response = AdmissionResponse::from(&self.request);
        match claims.and_then(|()| self.decide(injector)) {
            Ok(Decision {
                outcome,
                patched,
                warnings,
            }) => {
                let mut response = self.patch(response, patched)?;
                response.warnings = (!warnings.is_empty()).then_some(warnings);
                if let Outcome::Pod(status) = &outcome {
                    let label = status.label().to_owned();
                    response
                        .audit_annotations
                        .insert("status".to_owned(), label);
                }
                Ok(Answer { response, outcome })
            }
            Err(refusal) => {
                let mut response = response.deny("");
                let message = format!("sealwire: {refusal}");
                response.result = ApiStatus::failure(&message, "Forbidden").with_code(403);
                Ok(Answer {
                    response,
                    outcome: Outcome::Refused(refusal),
                })
            }
        }
    }

    fn patch(
        &self,
        response: AdmissionResponse,
        patched: Option<Value>,
    ) -> Result<AdmissionResponse, ReviewError> {
        let (Some(before), Some(after)) = (&self.object, patched) else {
            return Ok(response);
        };
        let patch = json_patch::diff(before, &after);
        if patch.0.is_empty() {
            return Ok(response);
        }
        response
            .with_patch(patch)
            .map_err(|error| ReviewError::Patch(error.to_string()))
    }

    fn decide(&self, injector: &Injector) -> Result<Decision, Refusal> {
        match self.task {
            Task::Config => return self.change_of_config(injector),
            _ if self.request.resource.resource != "pods" => return Ok(Decision::untouched()),
            _ => {}
        }
        let Some(pod) = &self.object else {
            return Ok(Decision::untouched());
        };
        if self.request.operation == Operation::Create && self.is_mirror(pod) {
            return Ok(Decision::untouched());
        }
        match (
            self.task,
            &self.request.operation,
            self.request.sub_resource.as_deref(),
        ) {
            (Task::Stray, Operation::Create, None) => Err(stray(self.namespace()).into()),
            (Task::Mutate(scope), Operation::Create, None) => {
                let injected = injector.inject(pod, self.namespace(), scope)?;
                Ok(Decision {
                    outcome: Outcome::Pod(injected.status),
                    patched: Some(injected.pod),
                    warnings: injected.warnings,
                })
            }
            (Task::Mutate(scope), Operation::Update, None) => {
                let old = self.old.as_ref().unwrap_or(&Value::Null);
                Ok(Decision {
                    patched: injector.keep(old, pod, self.namespace(), scope),
                    ..Decision::untouched()
                })
            }
            (Task::Validate(scope), Operation::Create, None) => {
                let status = injector.validate(pod, self.namespace(), scope)?;
                Ok(Decision::pod(status))
            }
            (Task::Validate(_), Operation::Update, sub) => {
                let old = self.old.as_ref().unwrap_or(&Value::Null);
                if sub == Some("ephemeralcontainers") {
                    injector.validate_ephemeral(old, pod)?;
                }
                injector.validate_update(old, pod)?;
                Ok(Decision::untouched())
            }
            _ => Ok(Decision::untouched()),
        }
    }

    /// A static pod's image in the API: it runs on its node already, and whatever is changed in it
    /// here would make the kubelet take it for another. Only a kubelet makes them.
    fn is_mirror(&self, pod: &Value) -> bool {
        let mirror = pod
            .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
            .is_some();
        let user = self
            .request
            .user_info
            .username
            .as_deref()
            .unwrap_or_default();
        let groups = self.request.user_info.groups.iter().flatten();
        mirror
            && user.starts_with("system:node:")
            && groups.into_iter().any(|group| group == "system:nodes")
    }

    /// The ConfigMap says what is sealed: only the injector writes it, and only the end of its
    /// namespace takes it away.
    fn change_of_config(&self, injector: &Injector) -> Result<Decision, Refusal> {
        if self.request.name != names::CONFIG_MAP || self.request.resource.resource != "configmaps"
        {
            return Ok(Decision::untouched());
        }
        let controller = &injector.config().controller;
        let own = format!(
            "system:serviceaccount:{}:{}",
            controller.namespace, controller.service_account
        );
        let user = self
            .request
            .user_info
            .username
            .as_deref()
            .unwrap_or_default();
        let end = self.request.operation == Operation::Delete
            && user == "system:serviceaccount:kube-system:namespace-controller";
        if user == own || end {
            return Ok(Decision::untouched());
        }
        Err(Fault::new(
            Reason::Reserved,
            format!("configmaps/{}", names::CONFIG_MAP),
            "only the injector writes it",
            "change the injector's configuration, or the annotations of the namespace",
        )
        .into())
    }
}

struct Decision {
    outcome: Outcome,
    patched: Option<Value>,
    warnings: Vec<String>,
}

impl Decision {
    fn untouched() -> Self {
        Self {
            outcome: Outcome::Untouched,
            patched: None,
            warnings: Vec::new(),
        }
    }

    fn pod(status: Status) -> Self {
        Self {
            outcome: Outcome::Pod(status),
            ..Self::untouched()
        }
    }
}

fn stray(namespace: &str) -> Fault {
    Fault::new(
        Reason::Choice,
        format!("metadata.labels[{}]", names::INJECT),
        format!("the pod asks to be sealed, and nothing is sealed in the namespace {namespace}"),
        format!(
            "label the namespace: kubectl label namespace {namespace} {}={}",
            names::INJECT,
            names::LABELLED
        ),
    )
}
