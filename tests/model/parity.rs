//! Every step of every golden case against timm and open_clip.

use std::collections::BTreeMap;

use pcqa::media::sample_indices;
use pcqa::model::{Dtype, Ensemble, TextTower, ViewTrace, Weights};
use tch::{Device, Kind};

use crate::support::{Case, GOLDEN, GoldenEnsemble, distance, elements, step};

const TOLERANCE: f64 = 1e-4;
const BF16_TOLERANCE: f64 = 2e-2;

/// Greatest differences by module and step.
type Report = BTreeMap<String, f64>;

#[test]
fn every_step_is_the_libraries_own() {
    let mut report = Report::new();
    for ensemble in GOLDEN.ensembles.values() {
        for tta in [false, true] {
            let network = ensemble.load(tta, Dtype::F32).unwrap();
            for case in ensemble.cases.iter().filter(|case| case.tta == tta) {
                compare(&network, ensemble, case, &mut report);
            }
        }
    }
    for (step, difference) in &report {
        println!("{difference:.1e}  {step}");
    }
    assert!(report.len() > 60, "{} steps are too few", report.len());
    let wrong: Vec<_> = report.iter().filter(|(_, difference)| **difference > TOLERANCE).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn text_towers_of_every_layout_are_the_libraries_own() {
    for ensemble in GOLDEN.ensembles.values() {
        for spec in &ensemble.manifest.text.towers {
            let bytes = ensemble.modules[&spec.weights].file(ensemble.name(), &spec.weights);
            let weights = Weights::parse(&spec.weights, &bytes, Device::Cpu, Kind::Float).unwrap();
            let tower = TextTower::load(spec, weights).unwrap();
            for case in &ensemble.cases {
                let key = format!("{}/{}/text/{}", ensemble.name(), case.name, spec.name);
                let difference = distance(&elements(&tower.forward(&[&case.token_ids()]).unwrap()), &step(&key));
                println!("{difference:.1e}  {key}");
                assert!(difference <= TOLERANCE, "{key}: {difference}");
            }
        }
    }
}

#[test]
fn bf16_raw_scores_stay_near_f32() {
    let mut worst: f64 = 0.0;
    for ensemble in GOLDEN.ensembles.values() {
        let network = ensemble.load(false, Dtype::Bf16).unwrap();
        for case in ensemble.cases.iter().filter(|case| !case.tta) {
            let text = network.encode_prompts(&[&case.token_ids()]).unwrap();
            let pictures = case.pictures(&network.sides(case.track));
            let (scores, _) = network.score(case.track, &[&pictures], &text).unwrap();
            for (expert, raw) in scores[0].as_ref().unwrap().experts.iter().zip(&case.raw) {
                println!("{:.1e}  {}/{}/{}", (expert.raw - raw).abs(), ensemble.name(), case.name, expert.name);
                worst = worst.max((expert.raw - raw).abs());
            }
        }
    }
    assert!(worst > 0.0 && worst <= BF16_TOLERANCE, "{worst}");
}

fn compare(network: &Ensemble, ensemble: &GoldenEnsemble, case: &Case, report: &mut Report) {
    let chosen: Vec<String> =
        sample_indices(case.clip_frames, 16).iter().map(|index| format!("{}/{index}", case.name)).collect();
    assert_eq!(chosen, case.frames);

    let at = format!("{}/{}", ensemble.name(), case.name);
    let text = network.encode_prompts(&[&case.token_ids()]).unwrap();
    note(report, format!("{}/text", ensemble.name()), distance(&elements(&text), &step(&format!("{at}/text"))));

    let pictures = case.pictures(&network.sides(case.track));
    let traces = network.trace(case.track, &[&pictures], &text).unwrap();
    for expert in &traces {
        assert_eq!(expert.views.len(), if case.tta { 2 } else { 1 });
        for (index, view) in expert.views.iter().enumerate() {
            for (name, values) in steps(view) {
                let key = format!("{at}/{}/{index}/{name}", expert.name);
                note(report, format!("{}/{}/{name}", ensemble.name(), expert.name), distance(&values, &step(&key)));
            }
        }
    }

    let (scores, _) = network.score(case.track, &[&pictures], &text).unwrap();
    let [Ok(score)] = scores.as_slice() else { panic!("one item has one score") };
    for ((expert, raw), z) in score.experts.iter().zip(&case.raw).zip(&case.z_by_expert) {
        note(report, format!("{}/{}/f", ensemble.name(), expert.name), (expert.raw - raw).abs());
        note(report, format!("{}/{}/z", ensemble.name(), expert.name), (expert.z - z).abs());
    }
    assert_eq!(score.experts.len(), case.raw.len());
    note(report, format!("{}/z", ensemble.name()), (score.z - case.z).abs());
    note(report, format!("{}/disagreement", ensemble.name()), (score.disagreement - case.disagreement).abs());
    let scale = ensemble.manifest.mos.std;
    note(report, format!("{}/mos (in standard deviations)", ensemble.name()), (score.mos - case.mos).abs() / scale);
}

fn steps(view: &ViewTrace) -> [(&'static str, Vec<f32>); 6] {
    [
        ("features", elements(&view.features)),
        ("vision_pooled", elements(&view.head.vision_pooled)),
        ("prompt_latent", elements(&view.head.prompt_latent)),
        ("vision_latent", elements(&view.head.vision_latent)),
        ("merged", elements(&view.head.merged)),
        ("raw", elements(&view.head.raw)),
    ]
}

fn note(report: &mut Report, step: String, difference: f64) {
    let worst = report.entry(step).or_default();
    *worst = worst.max(difference);
}
