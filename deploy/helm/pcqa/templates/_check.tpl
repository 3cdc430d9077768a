{{/* What values.schema.json cannot say: values that must fit each other, or the cluster. Every message begins with the
     value to change. */}}
{{- define "pcqa.check" -}}
{{- $values := .Values -}}
{{- if not (regexMatch "^[a-z]" (include "pcqa.fullname" .)) -}}
{{- fail (printf "fullnameOverride: must be set, as no Service may be called %s: its name begins with a letter" (include "pcqa.fullname" .)) -}}
{{- end -}}
{{- $drain := $values.drain -}}
{{- if ge (float64 $drain.preStopSeconds) (addf $drain.waitSeconds $drain.graceSeconds) -}}
{{- fail (printf "drain.preStopSeconds: is %v, must be less than waitSeconds and graceSeconds together (%v)" $drain.preStopSeconds (addf $drain.waitSeconds $drain.graceSeconds)) -}}
{{- end -}}
{{- $scaling := $values.autoscaling -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: is %v, must be at most maxReplicas (%v)" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if eq $scaling.kind "keda" -}}
{{- $fallback := int $scaling.keda.fallback.replicas -}}
{{- if or (lt $fallback (int $scaling.minReplicas)) (gt $fallback (int $scaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.keda.fallback.replicas: is %v, must be minReplicas to maxReplicas (%v to %v)" $fallback $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.bundle.source "image") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "bundle.source: is image, but image volumes need Kubernetes 1.33 and this is %s; use initContainer" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq (toString $values.rollout.maxSurge) "0") (eq (toString $values.rollout.maxUnavailable) "0") -}}
{{- fail "rollout.maxSurge: is 0 like maxUnavailable, so that nothing could ever be replaced" -}}
{{- end -}}
{{- if and $values.gpu.runtimeClassName (not $values.gpu.count) -}}
{{- fail "gpu.runtimeClassName: is set, but gpu.count is 0" -}}
{{- end -}}
{{- $config := $values.config -}}
{{- if and $config.otlp_endpoint $values.networkPolicy.enabled (not $values.networkPolicy.egress) -}}
{{- fail "networkPolicy.egress: lets nothing out, so that no span would reach config.otlp_endpoint" -}}
{{- end -}}
{{- $cores := get (default (dict) $values.resources.limits) "cpu" -}}
{{- range $key := list "decoder_workers" "decode_threads" "threads" -}}
{{- if not (or $cores (hasKey $config $key)) -}}
{{- fail (printf "config.%s: must be set where resources.limits has no cpu, as its default is one per core of the node" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pcqa.checkTraining" -}}
{{- if has "all" .Values.training.experts -}}
{{- fail "training.experts: all is no expert; name each, as pods are made for them" -}}
{{- end -}}
{{- end -}}
