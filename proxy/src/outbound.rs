//! What the pod's applications open: the kernel's memory of the destination, the policy's
//! decision about it, and then a sealed link, a declared exception, or a reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealwire_link::{
    CloseReason, Direction, Ended, Links, Moving, Request, Treatment, prepare, relay_plain, reset,
};
use time::OffsetDateTime;
use tokio::net::TcpStream;

use crate::capture::accepted::Accepted;
use crate::capture::prove::ProofDesk;
use crate::capture::{is_proof_address, original_destination};
use crate::config::{ExceptionKind, ExceptionRule};
use crate::observe::{Begun, Ending, Observer};
use crate::observed_tls;
use crate::passing::{Passage, Passing};
use crate::policy::Decision;
use crate::state::{InForce, State};

/// The outbound side.
#[derive(Debug)]
pub struct Outbound {
    /// What is in force.
    pub state: Arc<State>,
    /// The maker of links.
    pub links: Arc<Links>,
    /// Where connections to the reserved addresses are handed in.
    pub desk: Arc<ProofDesk>,
    /// What is held of what was captured.
    pub accepted: Arc<Accepted>,
    /// What exceptions let through now.
    pub passing: Arc<Passing>,
    /// Who is told of connections.
    pub observer: Observer,
}

impl Outbound {
    /// Serves one captured connection to its end.
    pub async fn serve(&self, app: TcpStream, source: SocketAddr) {
        let destination = match original_destination(&app) {
            Ok(Some(destination)) => destination,
            Ok(None) => {
                return self.refuse_unredirected(
                    app,
                    source,
                    "it was addressed to the proxy's own port",
                );
            }
            Err(error) => return self.refuse_unredirected(app, source, error),
        };
        let _held = self.accepted.enter(source, destination);
        if is_proof_address(destination.ip()) {
            return self.desk.receive(app, destination).await;
        }
        let mut begun = self
            .observer
            .begin(Direction::Outbound, source, destination);
        let ending = match (prepare(&app), self.state.flowing()) {
            (Err(error), _) => Err((app, Ending::refused("interrupted", error))),
            (_, Err(missing)) => Err((app, Ending::refused("not_ready", missing))),
            (Ok(()), Ok(in_force)) => self.decide(app, &in_force, destination, &mut begun).await,
        };
        begun.end(ending.unwrap_or_else(|(app, ending)| {
            reset(app);
            ending
        }));
    }

    async fn decide(
        &self,
        app: TcpStream,
        in_force: &InForce,
        destination: SocketAddr,
        begun: &mut Begun<'_>,
    ) -> Served {
        match in_force
            .settings
            .outbound
            .decide(destination, OffsetDateTime::now_utc())
        {
            Decision::Refuse(refusal) => Err((app, Ending::refused(refusal.reason(), refusal))),
            Decision::Except(rule) => self.except(app, rule, destination, begun).await,
            Decision::Seal(naming) => {
                let request = Request {
                    destination,
                    naming: naming.clone(),
                    deadline: Instant::now() + self.links.limits().handshake,
                };
                let link = match self.links.connect(&in_force.epoch, request).await {
                    Ok(link) => link,
                    Err(error) => return Err((app, Ending::refused(error.reason(), error))),
                };
                let facts = link.facts().clone();
                // All this may have changed during the handshake, after live links were judged.
                let refused = match self.state.flowing() {
                    Ok(now) if now.settings.lets_go_on(link.live(), link.peer()) => None,
                    Ok(_) => Some(Ending::refused(
                        "policy_changed",
                        "the policy changed during the handshake, and no longer seals this",
                    )),
                    Err(missing) => Some(Ending::refused("not_ready", missing)),
                };
                if let Some(refused) = refused {
                    link.refuse();
                    let link = Some(facts);
                    return Err((app, Ending { link, ..refused }));
                }
                begun.sealed(link.live());
                let Ended { moved, outcome } = link.relay(app).await;
                Ok(Ending {
                    treatment: Treatment::Seal,
                    link: Some(facts),
                    observed_tls: None,
                    moved,
                    outcome,
                })
            }
        }
    }

    async fn except(
        &self,
        mut app: TcpStream,
        rule: &ExceptionRule,
        destination: SocketAddr,
        begun: &mut Begun<'_>,
    ) -> Served {
        let deadline = tokio::time::Instant::now() + self.links.limits().handshake;
        let connecting = tokio::time::timeout_at(deadline, TcpStream::connect(destination));
        let mut far = match connecting.await {
            Ok(Ok(far)) => far,
            Ok(Err(error)) => return Err((app, Ending::refused("unreachable", error))),
            Err(_) => return Err((app, Ending::refused("deadline", "connecting took too long"))),
        };
        if let Err(error) = prepare(&far) {
            return Err((app, Ending::refused("interrupted", error)));
        }
        let mut observed = None;
        if rule.kind == ExceptionKind::RequireTls {
            let watching = observed_tls::pass_handshake(&mut app, &mut far);
            observed = match tokio::time::timeout_at(deadline, watching).await {
                Ok(Ok(observed)) => Some(observed),
                Ok(Err(error)) => return Err((app, Ending::refused(error.reason(), error))),
                Err(_) => {
                    return Err((
                        app,
                        Ending::refused("deadline", "no TLS handshake was seen in time"),
                    ));
                }
            };
        }
        let treatment = match &observed {
            Some(_) => Treatment::RequireTls(rule.name.clone()),
            None => Treatment::Passthrough(rule.name.clone()),
        };
        let (observed_tls, hello) = observed
            .map(|seen| (seen.description, seen.forwarded))
            .unzip();
        let passage = Passage {
            rule: rule.name.clone(),
            destination,
            observed_tls: observed_tls.clone(),
            moved: Moving::default(),
        };
        let passes = match self.passing.enter(&far, passage) {
            Ok(passes) => passes,
            Err(error) => return Err((app, Ending::refused("interrupted", error))),
        };
        begun.passes(&passes.passage);
        let half_closed_idle = self.links.limits().half_closed_idle;
        let (over, moving) = (self.over(rule), &passes.passage.moved);
        let ended = relay_plain(app, far, half_closed_idle, over, moving).await;
        let moved = ended.moved + hello.unwrap_or_default();
        moving.is_at(moved);
        Ok(Ending {
            treatment,
            link: None,
            observed_tls,
            moved,
            outcome: ended.outcome,
        })
    }

    /// Waits until an exception's connection has to end: with the pod, or with the exception.
    async fn over(&self, rule: &ExceptionRule) -> CloseReason {
        let left = Duration::try_from(rule.expires - OffsetDateTime::now_utc()).unwrap_or_default();
        tokio::select! {
            () = self.state.closed() => CloseReason::Drain,
            () = tokio::time::sleep(left) => CloseReason::Expiry,
        }
    }

    fn refuse_unredirected(&self, app: TcpStream, source: SocketAddr, why: impl ToString) {
        let destination = app.local_addr().unwrap_or(source);
        reset(app);
        let begun = self
            .observer
            .begin(Direction::Outbound, source, destination);
        begun.end(Ending::refused("not_captured", why));
    }
}

/// A connection that was relayed to its end, or one that is to be reset.
type Served = Result<Ending, (TcpStream, Ending)>;
