//! The S3 operations that walfs uses, over the objects in memory.
//!
//! `s3s` has parsed the request and checked its signature before it comes here. Every body is read to its end before
//! anything is decided about it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hyper::HeaderMap;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

use super::checksum::{self, Algorithm, tell_sum};
use super::listing;
use super::memory::{About, Condition, Demand, Lock, Memory, Object as Stored, Part as StoredPart, Upload};

/// One bucket of objects in memory, as `s3s` wants it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) memory: Arc<Memory>,
    pub(crate) bucket: String,
}

type Answer<T> = S3Result<S3Response<T>>;

impl Api {
    fn check_bucket(&self, bucket: &str) -> S3Result {
        match bucket == self.bucket {
            true => Ok(()),
            false => Err(s3_error!(NoSuchBucket, "No such bucket: {bucket}")),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let (body, trailers) = read(req.input.body.take(), req.trailing_headers.take()).await?;
        self.check_bucket(&req.input.bucket)?;
        let sum = checksum::verify(&req.headers, &trailers, &body)?;
        let condition = Condition {
            if_none_match: req.input.if_none_match,
            if_match: req.input.if_match,
        };
        let about = About {
            content_type: req.input.content_type,
            metadata: req.input.metadata,
        };
        let object = Stored::new(body, sum, about);
        let mut output = PutObjectOutput {
            e_tag: strong(&object.etag),
            ..Default::default()
        };
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
        tell_sum!(output, object.sum);
        self.memory.put(&req.input.key, object, &condition)?;
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        self.check_bucket(&req.input.bucket)?;
        let object = self.memory.get(&req.input.key)?;
        let size = object.bytes.len() as u64;
        let range = req.input.range.map(|range| range.check(size)).transpose()?;
        let bytes = range.as_ref().map_or(object.bytes.clone(), |range| {
            object.bytes.slice(range.start as usize..range.end as usize)
        });
        let mut output = GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range: range
                .as_ref()
                .map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: strong(&object.etag),
            last_modified: Some(object.modified.into()),
            content_type: object.about.content_type,
            metadata: object.about.metadata,
            ..Default::default()
        };
        match object.lock {
            Some(Lock::Until(until)) => {
                output.object_lock_mode = Some(ObjectLockMode::from_static(ObjectLockMode::COMPLIANCE));
                output.object_lock_retain_until_date = Some(until.into());
            }
            Some(Lock::Hold) => {
                let on = ObjectLockLegalHoldStatus::from_static(ObjectLockLegalHoldStatus::ON);
                output.object_lock_legal_hold_status = Some(on);
            }
            None => {}
        }
        // A checksum is that of the whole: with a part it would make the client refuse right bytes.
        if req.input.checksum_mode.is_some() && range.is_none() {
            tell_sum!(output, object.sum);
            output.checksum_type = checksum_type(object.sum.composite);
        }
        Ok(S3Response::new(output))
    }

    async fn get_object_lock_configuration(
        &self,
        req: S3Request<GetObjectLockConfigurationInput>,
    ) -> Answer<GetObjectLockConfigurationOutput> {
        self.check_bucket(&req.input.bucket)?;
        if !self.memory.locks() {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
        let object_lock_configuration = Some(ObjectLockConfiguration {
            object_lock_enabled: Some(enabled),
            rule: None,
        });
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration,
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        self.check_bucket(&req.input.bucket)?;
        let object = self.memory.get(&req.input.key)?;
        let mut output = HeadObjectOutput {
            content_length: Some(object.bytes.len() as i64),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: strong(&object.etag),
            last_modified: Some(object.modified.into()),
            content_type: object.about.content_type,
            metadata: object.about.metadata,
            ..Default::default()
        };
        if req.input.checksum_mode.is_some() {
            tell_sum!(output, object.sum);
            output.checksum_type = checksum_type(object.sum.composite);
        }
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(listing::page(&self.memory, req.input)))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        self.check_bucket(&req.input.bucket)?;
        self.memory.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        self.check_bucket(&req.input.bucket)?;
        let quiet = req.input.delete.quiet == Some(true);
        let mut deleted = Vec::new();
        for object in req.input.delete.objects {
            self.memory.remove(&object.key);
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        let deleted = (!quiet).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted,
            ..Default::default()
        }))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        self.check_bucket(&req.input.bucket)?;
        Err(s3_error!(BucketAlreadyOwnedByYou))
    }

    async fn list_buckets(&self, _req: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let only = Bucket {
            name: Some(self.bucket.clone()),
            ..Default::default()
        };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(vec![only]),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let wanted = input
            .checksum_algorithm
            .as_ref()
            .map(|wanted| wanted.as_str().to_owned());
        let algorithm = wanted
            .as_deref()
            .map_or(Some(Algorithm::Crc64Nvme), Algorithm::named);
        let algorithm = algorithm.ok_or_else(|| s3_error!(InvalidRequest, "Unknown checksum algorithm"))?;
        let composite = composite(algorithm, input.checksum_type.as_ref())?;
        let about = About {
            content_type: input.content_type,
            metadata: input.metadata,
        };
        let upload = Upload {
            key: input.key.clone(),
            algorithm,
            composite,
            parts: Default::default(),
            about,
            begun: SystemTime::now(),
        };
        Ok(S3Response::new(CreateMultipartUploadOutput {
            upload_id: Some(self.memory.begin_upload(upload)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: wanted.and_then(|_| checksum_type(composite)),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let (body, trailers) = read(req.input.body.take(), req.trailing_headers.take()).await?;
        self.check_bucket(&req.input.bucket)?;
        let sum = checksum::verify(&req.headers, &trailers, &body)?;
        let mut output = UploadPartOutput::default();
        if let Some(sum) = &sum {
            tell_sum!(output, sum);
        }
        let etag = checksum::etag(&body);
        output.e_tag = strong(&etag);
        let part = StoredPart {
            bytes: body,
            etag,
            sum,
        };
        self.memory
            .put_part(&req.input.upload_id, &req.input.key, req.input.part_number, part)?;
        Ok(S3Response::new(output))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let parts = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default();
        let named = |part: CompletedPart| (part.part_number.unwrap_or(0), part.e_tag.map(ETag::into_value));
        let demand = Demand {
            parts: parts.into_iter().map(named).collect(),
            sum: checksum::declared(&req.headers, &HeaderMap::new())?,
            size_bytes: input.mpu_object_size,
            condition: Condition {
                if_none_match: input.if_none_match,
                if_match: input.if_match,
            },
        };
        let object = self.memory.complete(&input.upload_id, &input.key, &demand)?;
        let mut output = CompleteMultipartUploadOutput {
            e_tag: strong(&object.etag),
            ..Default::default()
        };
        tell_sum!(output, object.sum);
        output.checksum_type = checksum_type(object.sum.composite);
        output.bucket = Some(input.bucket);
        output.key = Some(input.key);
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        self.check_bucket(&req.input.bucket)?;
        self.memory.abort(&req.input.upload_id, &req.input.key)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        self.check_bucket(&req.input.bucket)?;
        let upload = self.memory.upload(&req.input.upload_id, &req.input.key)?;
        let parts = upload
            .parts
            .iter()
            .map(|(number, part)| told(*number, part))
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            parts: Some(parts),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        self.check_bucket(&req.input.bucket)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let under_way = self
            .memory
            .uploads()
            .into_iter()
            .filter(|(_, upload)| upload.key.starts_with(&prefix));
        let told = under_way.map(|(id, upload)| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(id),
            initiated: Some(upload.begun.into()),
            ..Default::default()
        });
        let uploads = Some(told.collect());
        let is_truncated = Some(false);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads,
            is_truncated,
            ..Default::default()
        }))
    }
}

/// A whole body and the headers that came after it.
async fn read(
    body: Option<StreamingBlob>,
    trailing: Option<s3s::TrailingHeaders>,
) -> S3Result<(Bytes, HeaderMap)> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            // Also the end of a body whose hash is not the signed one.
            bytes.extend_from_slice(&piece.map_err(|error| s3_error!(IncompleteBody, "{error}"))?);
        }
    }
    let trailers = trailing.and_then(|trailing| trailing.take()).unwrap_or_default();
    Ok((bytes.freeze(), trailers))
}

fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

fn checksum_type(composite: bool) -> Option<ChecksumType> {
    Some(ChecksumType::from_static(if composite {
        ChecksumType::COMPOSITE
    } else {
        ChecksumType::FULL_OBJECT
    }))
}

/// Which kind of checksum an upload gets: CRC64NVME is always of the whole, a SHA never, a CRC32 as one likes.
fn composite(algorithm: Algorithm, wanted: Option<&ChecksumType>) -> S3Result<bool> {
    let whole_only = algorithm == Algorithm::Crc64Nvme;
    let composite = wanted.map_or(!whole_only, |wanted| wanted.as_str() == ChecksumType::COMPOSITE);
    let parts_only = matches!(algorithm, Algorithm::Sha1 | Algorithm::Sha256);
    if composite && whole_only || !composite && parts_only {
        return Err(s3_error!(
            InvalidRequest,
            "The checksum type does not go with {}",
            algorithm.name()
        ));
    }
    Ok(composite)
}

fn told(number: i32, part: &StoredPart) -> Part {
    let mut told = Part {
        part_number: Some(number),
        size: Some(part.bytes.len() as i64),
        ..Default::default()
    };
    told.e_tag = strong(&part.etag);
    if let Some(sum) = &part.sum {
        tell_sum!(told, sum);
    }
    told
}
