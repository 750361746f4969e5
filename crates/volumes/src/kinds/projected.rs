//! projected: files from several sources in one volume.

use pod::{
    Mono,
    api::{ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection},
};

use crate::{
    error::Cause,
    payload::{self, Defaults, Payload, Projection},
    security::token_mode,
    sources::Sources,
};

/// The files, and when the earliest token among them is to be renewed.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub payload: Payload,
    pub renew_at: Option<Mono>,
}

/// All sources are tried, so that the message names everything that is missing.
pub(crate) async fn collect(from: &Sources<'_>, source: &ProjectedVolumeSource) -> Result<Collected, Cause> {
    let defaults = Defaults::new(source.default_mode)?;
    let (mut collected, mut problems) = (Collected::default(), Vec::new());
    for projection in source.sources.iter().flatten() {
        if let Err(problem) = add(from, projection, defaults, &mut collected).await {
            problems.push(problem);
        }
    }
    Cause::collected(problems).map_or(Ok(collected), Err)
}

async fn add(
    from: &Sources<'_>,
    projection: &VolumeProjection,
    defaults: Defaults,
    into: &mut Collected,
) -> Result<(), Cause> {
    if let Some(source) = &projection.secret {
        let optional = source.optional.unwrap_or(false);
        let secret = from.secret(&source.name, optional).await?;
        let items = source.items.as_deref().unwrap_or_default();
        into.payload.extend(payload::of_secret(items, &secret, defaults, optional)?);
    } else if let Some(source) = &projection.config_map {
        let optional = source.optional.unwrap_or(false);
        let map = from.config_map(&source.name, optional).await?;
        let items = source.items.as_deref().unwrap_or_default();
        into.payload.extend(payload::of_config_map(items, &map, defaults, optional)?);
    } else if let Some(source) = &projection.downward_api {
        into.payload.extend(from.downward_api(source.items.as_deref().unwrap_or_default(), defaults)?);
    } else if let Some(source) = &projection.service_account_token {
        add_token(from, source, defaults, into).await?;
    } else if projection.cluster_trust_bundle.is_some() {
        return Err(Cause::Unsupported("a clusterTrustBundle source"));
    } else if projection.pod_certificate.is_some() {
        return Err(Cause::Unsupported("a podCertificate source"));
    }
    Ok(())
}

async fn add_token(
    from: &Sources<'_>,
    source: &ServiceAccountTokenProjection,
    defaults: Defaults,
    into: &mut Collected,
) -> Result<(), Cause> {
    let audience = source.audience.clone().filter(|a| !a.is_empty());
    let issued = from.token(audience, source.expiration_seconds).await?;
    let owner = from.common_user;
    let mode = token_mode(defaults.mode(None), owner, from.fs_group);
    into.payload.insert(source.path.clone(), Projection { content: issued.content, mode, owner });
    into.renew_at = into.renew_at.into_iter().chain([issued.renew_at]).min();
    Ok(())
}
