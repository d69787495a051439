//! Where claims of volumes lead: a claim that is bound to a directory of the node is that directory.
//! It is asked of the API server in the time of the review; what cannot be found out is refused.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client};

use crate::refusal::{Fault, Faults, Reason, Refusal};
use crate::validate::check_host_path;

/// Most claims of one pod that are followed.
const MOST: usize = 64;

/// Follows claims.
#[derive(Clone)]
pub struct ClaimFollower {
    client: Client,
    host_paths: Vec<PathBuf>,
}

impl ClaimFollower {
    /// One that lets these directories of the node pass.
    pub fn new(client: Client, host_paths: Vec<PathBuf>) -> Self {
        Self { client, host_paths }
    }

    /// Refuses claims, given with their fields, that lead to directories of the node. A claim that
    /// is not there, or not bound, leads nowhere yet: the pod waits for it.
    ///
    /// # Errors
    /// [`Refusal`] with the claims.
    pub async fn follow(
        &self,
        namespace: &str,
        claims: &[(String, String)],
    ) -> Result<(), Refusal> {
        if claims.len() > MOST {
            return Err(Fault::new(
                Reason::Claim,
                "spec.volumes",
                format!("{} claims, and {MOST} are followed", claims.len()),
                "mount fewer",
            )
            .into());
        }
        let mut faults = Faults::default();
        for (field, claim) in claims {
            match self.volume(namespace, claim).await {
                Ok(volume) => self.check(field, claim, volume.as_ref(), &mut faults),
                Err(error) => faults.add(
                    Reason::Claim,
                    field,
                    format!("where {claim} leads could not be found out: {error}"),
                    "try again, or let the injector read claims and volumes (policy.claims)",
                ),
            }
        }
        faults.none_or_refuse()
    }

    async fn volume(
        &self,
        namespace: &str,
        claim: &str,
    ) -> Result<Option<PersistentVolume>, kube::Error> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let bound = claims
            .get_opt(claim)
            .await?
            .and_then(|claim| claim.spec?.volume_name);
        match bound.filter(|name| !name.is_empty()) {
            Some(name) => Api::all(self.client.clone()).get_opt(&name).await,
            None => Ok(None),
        }
    }

    fn check(
        &self,
        field: &str,
        claim: &str,
        volume: Option<&PersistentVolume>,
        faults: &mut Faults,
    ) {
        let spec = volume.and_then(|volume| volume.spec.as_ref());
        let host = spec
            .and_then(|spec| spec.host_path.as_ref())
            .map(|host| &host.path);
        let local = spec
            .and_then(|spec| spec.local.as_ref())
            .map(|local| &local.path);
        let Some(path) = host.or(local) else { return };
        if let Err(fault) = check_host_path(field, path, &self.host_paths) {
            let problem = format!("{claim} leads there: {}", fault.problem);
            faults.add(fault.reason, fault.field, problem, fault.fix);
        }
    }
}

impl std::fmt::Debug for ClaimFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimFollower")
            .field("host_paths", &self.host_paths)
            .finish_non_exhaustive()
    }
}
