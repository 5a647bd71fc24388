"""The gate: reports and a policy in, a verdict out. No files, no clock, no randomness, no way round.

What is missing, malformed, too little or unsound is inconclusive and never a pass; a worse number never
improves a verdict.

>>> from pathlib import Path
>>> from secpipeline.robustness.policy import load_policy
>>> decide(load_policy(Path("policies/default.yaml")), {}).verdict
'inconclusive'
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from secpipeline.robustness.bounds import Bound, at_most, interval_at, number, section, worst_of
from secpipeline.robustness.policy import Policy
from secpipeline.robustness.verdicts import Check, Verdict

__all__ = ["Check", "Verdict", "decide"]

# Floating point may carry an attack this far beyond its epsilon.
_ROUNDING = 1e-6


def decide(policy: Policy, evidence: Mapping[str, Any]) -> Verdict:
    """Hold the reports against the policy.

    Parameters
    ----------
    policy
        Bounds and required evidence.
    evidence
        Reports by name: ``validation`` (a test result), ``label_audit``, ``robustness``
        (:mod:`secpipeline.robustness.report`), ``export`` (agreement of artifact and detector).

    Returns
    -------
    Verdict
        ``pass``, ``fail`` or ``inconclusive`` with every check behind it.
    """
    checks = [*_required(policy, evidence), *_validation(evidence), *_label_audit(policy, evidence)]
    report = section(evidence, "robustness")
    sample = list(_sample(policy, report))
    checks += [*sample, *_coverage(policy, report), *_health(policy, report), *_export(policy, evidence)]
    # Intervals over a handful of images mean nothing, not even when they look bad.
    if all(check.outcome == "pass" for check in sample):
        checks += _bounds(policy, report, "", "")
        checks += _bounds(policy, section(report, "black_box"), "artifact-", "artifact: ")
        checks.append(_agreement(policy, report))
    return Verdict(policy.name, tuple(checks))


def _required(policy: Policy, evidence: Mapping[str, Any]) -> Iterator[Check]:
    for name in policy.required_evidence:
        if section(evidence, name):
            yield Check(f"evidence-{name.replace('_', '-')}", "pass", f"the {name} report is there", "there", "there")
        else:
            text = f"the {name} report is missing or empty; run the stage that makes it"
            yield Check(f"evidence-{name.replace('_', '-')}", "inconclusive", text, None, "there")


def _validation(evidence: Mapping[str, Any]) -> Iterator[Check]:
    report = section(evidence, "validation")
    if not report:
        return
    failed = report.get("failedTests")
    result = report.get("result")
    if result in ("PASSED", "WARNED") and failed == []:
        yield Check("validation", "pass", "no expectation of the data failed", result, "PASSED")
    elif result == "FAILED":
        names = ", ".join(map(str, failed[:5])) if isinstance(failed, list) else ""
        yield Check("validation", "fail", f"the data failed validation: {names}", "FAILED", "PASSED")
    else:
        text = f"the validation report contradicts itself: result {result!r}, failed tests {failed!r}"
        yield Check("validation", "inconclusive", text, None, "PASSED")


def _label_audit(policy: Policy, evidence: Mapping[str, Any]) -> Iterator[Check]:
    report = section(evidence, "label_audit")
    if not report:
        return
    checked = section(report, "predictions")
    result, failed = checked.get("result"), checked.get("failed")
    if result not in ("PASSED", "WARNED") or failed != []:
        names = ", ".join(map(str, failed[:5])) if isinstance(failed, list) else ""
        text = f"the label audit concluded nothing, because its judges' predictions did not pass their checks: {names}"
        yield Check("judges", "inconclusive", text, None, "PASSED")
        return
    yield Check("judges", "pass", "no check of the judges' predictions failed", result, "PASSED")
    if not policy.require_source_attribution:
        return
    outcome = report.get("attribution")
    if outcome == "decided":
        yield Check("source-attribution", "pass", "the sources' labels were compared", "decided", "decided")
    else:
        text = (
            f"the label audit could not compare the sources ({outcome}); name at least three sources in the "
            "annotations, or set require_source_attribution: false in the policy"
        )
        yield Check("source-attribution", "inconclusive", text, None, "decided")


def _sample(policy: Policy, report: Mapping[str, Any]) -> Iterator[Check]:
    subset = report.get("subset")
    if subset == policy.sample.subset:
        yield Check("subset", "pass", f"measured on {subset} people", subset, policy.sample.subset)
    else:
        text = f"measured on {subset or 'unknown'} people; the policy is about {policy.sample.subset} people"
        yield Check("subset", "inconclusive", text, None, policy.sample.subset)
    wanted = (
        ("images", "test images", policy.sample.min_images),
        ("people", "people", policy.sample.min_people),
    )
    for key, words, least in wanted:
        found = number(report, key)
        if found is not None and found >= least:
            yield Check(f"enough-{key}", "pass", f"{found:.0f} {words} are enough", found, least)
        else:
            shown = "an unknown number of" if found is None else f"{found:.0f}"
            text = f"{shown} {words} are too few to decide; the policy asks for {least}"
            yield Check(f"enough-{key}", "inconclusive", text, found, least)


def _coverage(policy: Policy, report: Mapping[str, Any]) -> Iterator[Check]:
    """Everything that the policy wants measured was measured, with attacks no weaker than it asks for."""
    conditions = section(report, "conditions")
    rules = policy.attacked
    missing = [name for name in ("clean", *rules.controls) if not section(conditions, name)]
    for objective in rules.objectives:
        strong = [
            name
            for name in _of_kind(report, "attack")
            if section(conditions, name).get("objective") == objective
            and (number(conditions, name, "epsilon") or 0) >= rules.min_epsilon - _ROUNDING
            and (number(conditions, name, "steps") or 0) >= rules.min_steps
        ]
        if not strong:
            missing.append(f"{objective} with epsilon {rules.min_epsilon:.4f} and {rules.min_steps} steps or more")
    for name in policy.corrupted.corruptions:
        wanted = [f"{name}-{severity}" for severity in policy.corrupted.severities]
        missing += [condition for condition in wanted if not section(conditions, condition)]
    served = section(report, "black_box", "conditions")
    missing += [f"{name} on the artifact" for name in conditions if not section(served, name)]
    if missing:
        yield Check("coverage", "inconclusive", f"not measured: {', '.join(missing)}", None, "all")
    else:
        yield Check("coverage", "pass", "every condition that the policy names was measured", "all", "all")


def _health(policy: Policy, report: Mapping[str, Any]) -> Iterator[Check]:
    rules = policy.health
    conditions = section(report, "conditions")
    for name in _of_kind(report, "attack"):
        facts = section(conditions, name)
        zero, broken = number(facts, "zero_gradient_share"), number(facts, "non_finite_share")
        yield at_most(
            f"{name}-gradient",
            f"{name}: share of images without gradient",
            zero,
            rules.max_zero_gradient_share,
        )
        yield at_most(f"{name}-finite", f"{name}: share of images with overflow", broken, rules.max_non_finite_share)
        epsilon = number(facts, "epsilon") or 0.0
        change = number(facts, "largest_change")
        yield at_most(f"{name}-epsilon", f"{name}: largest change of a pixel", change, epsilon + _ROUNDING)
    whole = (
        ("sanity_ap50", "AP50 left under an absurdly strong attack", rules.max_sanity_ap50),
        ("doubling_gain", "AP50 that twice the steps take away", rules.max_doubling_gain),
        (
            "single_step_advantage",
            "AP50 by which one step hurts more than many",
            rules.max_single_step_advantage,
        ),
        ("noise_advantage", "AP50 by which noise hurts more than the attack", rules.max_noise_advantage),
    )
    for key, words, limit in whole:
        yield at_most(key.replace("_", "-"), words, number(report, "health", key), limit)


def _export(policy: Policy, evidence: Mapping[str, Any]) -> Iterator[Check]:
    report = section(evidence, "export")
    if not report:
        return
    rules = policy.artifact
    wanted = (
        ("max_box_difference", "artifact: largest box difference in pixels", rules.max_box_difference),
        ("max_score_difference", "artifact: largest score difference", rules.max_score_difference),
        ("unmatched", "artifact: detections without a partner", rules.max_unmatched),
    )
    for key, words, limit in wanted:
        yield _fails_above(f"artifact-{key.replace('_', '-')}", words, number(report, key), limit)


def _agreement(policy: Policy, report: Mapping[str, Any]) -> Check:
    found = number(report, "black_box", "agreement", "max_ap50_difference")
    words = "artifact: largest AP50 difference to the detector under any condition"
    return _fails_above("artifact-agreement", words, found, policy.artifact.max_ap50_difference)


def _fails_above(code: str, words: str, found: float | None, limit: float) -> Check:
    """A ceiling on a fact that is known exactly: an artifact that differs is another detector."""
    check = at_most(code, words, found, limit)
    return check if check.outcome == "pass" or found is None else Check(code, "fail", check.text, found, limit)


def _bounds(policy: Policy, report: Mapping[str, Any], prefix: str, words: str) -> Iterator[Check]:
    """The floors and ceilings, on the detector or on the artifact."""
    margin = policy.sample.relative_margin
    clean = Bound(f"{prefix}clean-ap50", f"{words}clean AP50", policy.clean.ap50_floor, floor=True, margin=margin)
    yield clean.judge(interval_at(report, "conditions", "clean", "ap50"))
    rules = policy.attacked
    attacked = (
        ("ap50", "AP50", rules.ap50_floor, True, 1.0),
        ("miss_rate", "miss rate", rules.miss_rate_ceiling, False, 1.0),
        ("fppi", "false positives per image", rules.fppi_ceiling, False, math.inf),
    )
    for key, name, limit, floor, most in attacked:
        attacks = _of_kind(report, "attack")
        found = {attack: interval_at(report, "conditions", attack, key, most=most) for attack in attacks}
        code = f"{prefix}attacked-{key.replace('_', '-')}"
        worst = _worst_name(found, floor)
        bound = Bound(code, f"{words}{name} under the worst attack{worst}", limit, floor=floor, margin=margin)
        yield bound.judge(worst_of(list(found.values()), floor))
    mean = Bound(
        f"{prefix}corrupted-ap50",
        f"{words}mean AP50 under corruptions",
        policy.corrupted.mean_ap50_floor,
        floor=True,
        margin=margin,
    )
    yield mean.judge(interval_at(report, "corrupted_mean_ap50"))


def _worst_name(found: Mapping[str, Any], floor: bool) -> str:
    values = {name: one.value for name, one in found.items() if one is not None}
    if not values:
        return ""
    pick = min if floor else max
    return f" ({pick(values, key=lambda name: values[name])})"


def _of_kind(report: Mapping[str, Any], kind: str) -> list[str]:
    conditions = section(report, "conditions")
    return [name for name in conditions if section(conditions, name).get("kind") == kind]
