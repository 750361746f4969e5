//! A pod may come sooner than the word of a label that it was sent here for: before labels alone refuse it, the Node is
//! asked for anew.

use std::collections::HashMap;

use futures::future::BoxFuture;
use pod::{
    DesiredPod, PodUid,
    admit::{self, NodeView, Rejection},
    api::Node,
};
use tokio::task::{JoinError, JoinSet};

use super::Dispatcher;

/// Asks the API server for this node. None: it does not answer.
pub(super) type AskNode = dyn Fn() -> BoxFuture<'static, Option<Node>> + Send;

#[derive(Default)]
pub(super) struct FreshNodes {
    ask: Option<Box<AskNode>>,
    pub answers: JoinSet<(PodUid, Option<Node>)>,
    /// None: the answer is awaited.
    known: HashMap<PodUid, Option<Option<Node>>>,
}

impl FreshNodes {
    /// None: not known yet, the pod must wait. Each answer counts once.
    fn of(&mut self, uid: &PodUid) -> Option<Option<Node>> {
        let Some(ask) = &self.ask else { return Some(None) };
        if let Some(answer) = self.known.get_mut(uid) {
            let answer = answer.take()?;
            self.known.remove(uid);
            return Some(answer);
        }
        self.known.insert(uid.clone(), None);
        let (uid, node) = (uid.clone(), ask());
        self.answers.spawn(async move { (uid, node.await) });
        None
    }

    pub fn forget(&mut self, uid: &PodUid) {
        self.known.remove(uid);
    }
}

impl Dispatcher {
    /// Without it, what was last heard of the node's labels is all there is.
    #[must_use]
    pub fn asks_node(mut self, ask: impl Fn() -> BoxFuture<'static, Option<Node>> + Send + 'static) -> Self {
        self.fresh_nodes.ask = Some(Box::new(ask));
        self
    }

    /// None: the pod must wait for an answer.
    pub(super) fn verdict(
        &mut self,
        desired: &DesiredPod,
        active: &[&DesiredPod],
        node: &NodeView,
    ) -> Option<Result<(), Rejection>> {
        let verdict = admit::admit(desired, active, node);
        if !verdict.as_ref().is_err_and(|refusal| refusal.reason == admit::NODE_AFFINITY) {
            return Some(verdict);
        }
        let Some(fresh) = self.fresh_nodes.of(&desired.uid)? else { return Some(verdict) };
        let labels = fresh.metadata.labels.unwrap_or_default();
        Some(admit::admit(desired, active, &NodeView { labels, ..node.clone() }))
    }

    pub(super) fn node_answered(&mut self, answer: Result<(PodUid, Option<Node>), JoinError>) {
        match answer {
            Ok((uid, node)) => {
                if let Some(awaited) = self.fresh_nodes.known.get_mut(&uid) {
                    *awaited = Some(node);
                }
                self.admit_waiting();
            }
            Err(error) => tracing::error!(%error, "asking for the node ended abnormally"),
        }
    }
}
