//! Eq. 4: from the experts' raw scores to one.

use crate::model::{Calibration, Dtype, ExpertSpec, LoadOptions, Manifest, ModelError, MosScale};

/// One expert's opinion.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertScore {
    /// Name in the bundle.
    pub name: String,
    /// f_e, the head's output.
    pub raw: f64,
    /// (raw - mu) / sigma.
    pub z: f64,
}

/// Eq. 4 over the experts of a track.
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleScore {
    /// `mos.mean + mos.std * z`.
    pub mos: f64,
    /// Mean of the experts' z.
    pub z: f64,
    /// Population standard deviation of the experts' z.
    pub disagreement: f64,
    /// In the bundle's order.
    pub experts: Vec<ExpertScore>,
}

impl EnsembleScore {
    /// Eq. 4. Refused when an expert's z, the mos or the disagreement is infinite or not a number.
    pub(super) fn new(experts: Vec<ExpertScore>, scale: &MosScale) -> Result<Self, ModelError> {
        if let Some(ExpertScore { name, raw, z }) = experts.iter().find(|expert| !expert.z.is_finite()) {
            return Err(ModelError::NotFinite {
                what: format!("z of expert {name}, whose raw score is {raw},"),
                value: *z,
            });
        }
        let count = experts.len() as f64;
        let z = experts.iter().map(|expert| expert.z).sum::<f64>() / count;
        let variance = experts.iter().map(|expert| (expert.z - z).powi(2)).sum::<f64>() / count;
        let mos = scale.mean + scale.std * z;
        let disagreement = variance.sqrt();
        for (what, value) in [("mos", mos), ("disagreement", disagreement)] {
            if !value.is_finite() {
                return Err(ModelError::NotFinite { what: what.to_owned(), value });
            }
        }
        Ok(Self { mos, z, disagreement, experts })
    }
}

/// mu and sigma that hold for `spec` under `options`.
pub(super) fn calibration(
    manifest: &Manifest,
    spec: &ExpertSpec,
    options: LoadOptions,
) -> Result<(f64, f64), ModelError> {
    let LoadOptions { tta, dtype, .. } = options;
    let entry = manifest.calibrated(spec, dtype, tta).ok_or_else(|| {
        let (name, side, dtype) = (&spec.name, spec.input_size, dtype.name());
        let problem = format!("has no entry for expert {name}, tta {tta}, input_size {side}, dtype {dtype}");
        ModelError::Manifest { key: "calibration".to_owned(), problem }
    })?;
    Ok((entry.mu, entry.sigma))
}

impl Manifest {
    /// The calibration of `spec` for this number format, with or without test-time augmentation.
    pub(crate) fn calibrated(&self, spec: &ExpertSpec, dtype: Dtype, tta: bool) -> Option<&Calibration> {
        let holds = |entry: &&Calibration| {
            entry.expert == spec.name
                && entry.tta == tta
                && entry.input_size == spec.input_size
                && entry.dtypes.iter().any(|name| name == dtype.name())
        };
        self.calibration.iter().find(holds)
    }
}
