//! Calls that judge one text more than once.

use super::{channel::Client, error::ClientError};
use crate::proto::{
    ClassifyRenderingsRequest, ClassifyRenderingsResponse, FindEvidenceRequest, FindEvidenceResponse,
    safety_service_client::SafetyServiceClient,
};

impl Client {
    /// Judges one conversation in several languages or wordings.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn classify_renderings(
        &self,
        request: ClassifyRenderingsRequest,
    ) -> Result<ClassifyRenderingsResponse, ClientError> {
        self.unary(request, async |channel, request| {
            SafetyServiceClient::new(channel)
                .classify_renderings(request)
                .await
        })
        .await
    }

    /// Looks for the parts of a message that its verdict is for.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn find_evidence(
        &self,
        request: FindEvidenceRequest,
    ) -> Result<FindEvidenceResponse, ClientError> {
        self.unary(request, async |channel, request| {
            SafetyServiceClient::new(channel).find_evidence(request).await
        })
        .await
    }
}
