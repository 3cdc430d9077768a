{{- define "pcqa.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for the longest name that is made of it, and for a Service's, which has no dots as releases may. */}}
{{- define "pcqa.fullname" -}}
{{- $name := include "pcqa.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pcqa.commonLabels" -}}
app.kubernetes.io/name: {{ include "pcqa.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects the server's pods; never changes in the life of a release. */}}
{{- define "pcqa.selectorLabels" -}}
{{ include "pcqa.commonLabels" . }}
app.kubernetes.io/component: server
{{- end -}}

{{/* What selects the pods of training. */}}
{{- define "pcqa.trainingLabels" -}}
{{ include "pcqa.commonLabels" . }}
app.kubernetes.io/component: training
{{- end -}}

{{/* Labels of objects that say nothing of pods. */}}
{{- define "pcqa.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "pcqa.labels" -}}
{{ include "pcqa.selectorLabels" . }}
{{ include "pcqa.releaseLabels" . }}
{{- end -}}

{{- define "pcqa.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Where the server listens inside its pod. */}}
{{- define "pcqa.grpcPort" -}}50051{{- end -}}
{{- define "pcqa.metricsPort" -}}9090{{- end -}}

{{/* The user of the image. Claims and emptied volumes belong to the group. */}}
{{- define "pcqa.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Decoder processes close their own sandbox (rlimits, seccomp, no_new_privs): that takes no privilege. */}}
{{- define "pcqa.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Resources with GPUs among the limits: (dict "resources" … "gpus" N "resource" NAME). */}}
{{- define "pcqa.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpus -}}
{{- $_ := set $resources "limits" (set (default (dict) $resources.limits) .resource (toString .gpus)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* The taint of NVIDIA's nodes, and what else is given: (dict "gpus" N "tolerations" …). */}}
{{- define "pcqa.tolerations" -}}
{{- if .gpus }}
- key: nvidia.com/gpu
  operator: Exists
  effect: NoSchedule
{{- end }}
{{- with .tolerations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A value as an option of the server reads it: whole numbers without an exponent. */}}
{{- define "pcqa.scalar" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "pcqa.bundleMount" -}}/var/lib/pcqa{{- end -}}

{{/* The server's arguments, one item a line. */}}
{{- define "pcqa.arguments" -}}
{{- $values := .Values -}}
- --listen={{ $values.listenAddress }}:{{ include "pcqa.grpcPort" . }}
- --metrics-listen={{ $values.listenAddress }}:{{ include "pcqa.metricsPort" . }}
{{- if $values.gpu.count }}
{{- $devices := list }}
{{- range $index := until (int $values.gpu.count) }}{{ $devices = append $devices (printf "cuda:%d" $index) }}{{ end }}
- --device={{ join "," $devices }}
{{- else }}
- --device=cpu
{{- end }}
{{- if ne $values.bundle.source "demo" }}
- --bundle={{ include "pcqa.bundleMount" . }}{{ with $values.bundle.path }}/{{ . }}{{ end }}
{{- end }}
{{- if $values.bundle.watch }}
- --watch-bundle
{{- end }}
{{- if $values.tls.secretName }}
- --tls-certificate=/etc/pcqa/tls/tls.crt
- --tls-key=/etc/pcqa/tls/tls.key
{{- end }}
{{- if $values.tls.clientCA.secretName }}
- --tls-client-ca=/etc/pcqa/client-ca/ca.crt
{{- end }}
{{- if $values.access.keysSecret.name }}
- --keys-file=/etc/pcqa/keys/keys.txt
{{- end }}
{{- if $values.access.allowUnprotected }}
- --allow-unprotected
{{- end }}
- --drain-wait-seconds={{ toJson $values.drain.waitSeconds }}
- --drain-grace-seconds={{ toJson $values.drain.graceSeconds }}
{{- range $key, $value := $values.config }}
- {{ printf "--%s=%s" (replace "_" "-" $key) (include "pcqa.scalar" $value) | quote }}
{{- end }}
{{- end -}}

{{/* Seconds from the beginning of a pod's end until the kubelet kills it. */}}
{{- define "pcqa.terminationGracePeriodSeconds" -}}
{{- $drain := .Values.drain -}}
{{- $least := addf $drain.preStopSeconds $drain.waitSeconds $drain.graceSeconds -}}
{{- if kindIs "invalid" $drain.terminationGracePeriodSeconds -}}
{{- addf $least 10 | ceil | int -}}
{{- else if le (float64 $drain.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "drain.terminationGracePeriodSeconds: is %v, must be more than the %v s of preStopSeconds, waitSeconds and graceSeconds together" $drain.terminationGracePeriodSeconds $least) -}}
{{- else -}}
{{- int $drain.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* How fast replicas come and go, of both autoscalers: at once when there is work, slowly when there is none, since a
     new one has to load its bundle first. */}}
{{- define "pcqa.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end -}}
