{{/* What the pods of both Jobs have in common. */}}
{{- define "pcqa.trainingPod" -}}
{{- $training := .Values.training -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
# A run is killed at any time without loss: it goes on at its last checkpoint.
terminationGracePeriodSeconds: 5
securityContext: {{- include "pcqa.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and $training.gpu.count .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with $training.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "pcqa.tolerations" (dict "gpus" $training.gpu.count "tolerations" $training.tolerations) | trim }}
tolerations: {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Of both Jobs' containers; ends with their mounts, so that more can follow. */}}
{{- define "pcqa.trainingContainer" -}}
{{- $training := .Values.training -}}
securityContext: {{- include "pcqa.securityContext" . | nindent 2 }}
resources:
  {{- include "pcqa.resources" (dict "resources" $training.resources "gpus" $training.gpu.count "resource" .Values.gpu.resource) | nindent 2 }}
volumeMounts:
  - name: data
    mountPath: /data
    readOnly: true
  - name: runs
    mountPath: /runs
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "pcqa.trainingVolumes" -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.training.data.claimName }}
- name: runs
  persistentVolumeClaim:
    claimName: {{ .Values.training.runs.claimName }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- end -}}
