//! The image service of the fake.

use api_types::runtime::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest, RemoveImageResponse, UInt64Value, image_service_server::ImageService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Fake;

type Reply<T> = Result<Response<T>, Status>;

fn name(spec: Option<ImageSpec>) -> String {
    spec.unwrap_or_default().image
}

#[async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Reply<ListImagesResponse> {
        let state = self.enter("list_images", "").await?;
        Ok(Response::new(ListImagesResponse { images: state.images.values().cloned().collect() }))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Reply<ImageStatusResponse> {
        let name = name(request.into_inner().image);
        let state = self.enter("image_status", &name).await?;
        Ok(Response::new(ImageStatusResponse { image: state.image(&name).cloned(), ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Reply<PullImageResponse> {
        let name = name(request.into_inner().image);
        let mut state = self.enter("pull_image", &name).await?;
        state.add_image(&name);
        Ok(Response::new(PullImageResponse { image_ref: format!("sha256:{name}") }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Reply<RemoveImageResponse> {
        let name = name(request.into_inner().image);
        let mut state = self.enter("remove_image", &name).await?;
        state.images.retain(|tag, image| *tag != name && image.id != name);
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Reply<ImageFsInfoResponse> {
        let state = self.enter("image_fs_info", "").await?;
        let usage = FilesystemUsage {
            fs_id: Some(FilesystemIdentifier { mountpoint: "/".to_owned() }),
            used_bytes: Some(UInt64Value { value: state.images.values().map(|i| i.size).sum() }),
            inodes_used: Some(UInt64Value { value: 1 }),
            timestamp: 0,
        };
        Ok(Response::new(ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: Vec::new() }))
    }
}
