{{/* The name of the release starts the name of every object. "-metrics" and "-init-db" follow it, and
     the name of a CronJob has at most 52 characters, because Kubernetes adds 11 for a Job. */}}
{{- define "ops-worker.name" -}}
{{- if gt (len .Release.Name) 44 -}}
{{- fail (printf "the release name %q has more than 44 characters: names of CronJobs would have more than 52" .Release.Name) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end -}}

{{/* A value as JSON, which YAML contains: every text stays the same, and no number gets an exponent.
     toJson leaves the control characters from U+007F to U+009F, which YAML refuses or folds, and three
     more, which YAML refuses. */}}
{{- define "ops-worker.json" -}}
{{- $text := toJson . -}}
{{- range concat (untilStep 0x7f 0xa0 1) (list 0xfeff 0xfffe 0xffff) -}}
{{- $text = replace (printf "%c" .) (printf "\\u%04x" .) $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- define "ops-worker.secret" -}}
{{- .Values.existingSecret | default (include "ops-worker.name" .) -}}
{{- end -}}

{{- define "ops-worker.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ops-worker.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/name: ops-worker
app.kubernetes.io/part-of: iot-platform
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* What the pods of CronJobs and of the sidecar have in common. */}}
{{- define "ops-worker.pod" -}}
serviceAccountName: {{ include "ops-worker.name" . | quote }}
enableServiceLinks: false  # a Service named pg would set PG_PORT
securityContext:
  runAsNonRoot: true
  {{- if not .Values.components.openshift.enabled }}
  runAsUser: 65532
  runAsGroup: 65532
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.scheduling }}
{{- with .nodeSelector }}
nodeSelector: {{ include "ops-worker.json" . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ include "ops-worker.json" . }}
{{- end }}
{{- with .affinity }}
affinity: {{ include "ops-worker.json" . }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}
volumes:
  {{- if .Values.components.secretFiles.enabled }}
  - name: secret
    secret: {secretName: {{ include "ops-worker.secret" . | quote }}}
  {{- end }}
  - name: tmp
    emptyDir: {sizeLimit: 16Mi}
  - name: catalogue
    configMap:
      name: {{ include "ops-worker.name" . }}-catalogue
      optional: true  # if it is missing, the pass reports that
{{- end -}}

{{/* What their containers have in common. */}}
{{- define "ops-worker.container" -}}
name: ops-worker
image: {{ include "ops-worker.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
envFrom:
  - configMapRef: {name: {{ include "ops-worker.name" . | quote }}}
  {{- if not .Values.components.secretFiles.enabled }}
  - secretRef: {name: {{ include "ops-worker.secret" . | quote }}}
  {{- end }}
{{- with .Values.resources }}
resources: {{ include "ops-worker.json" . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  {{- if .Values.components.secretFiles.enabled }}
  - {name: secret, mountPath: /run/secrets/ops-worker, readOnly: true}
  {{- end }}
  - {name: tmp, mountPath: /tmp}
  - {name: catalogue, mountPath: /etc/ops-worker, readOnly: true}
{{- end -}}

{{/* The variables that name the files of the Secret. */}}
{{- define "ops-worker.secret-files" -}}
{{- with .Values.components.secretFiles -}}
{{- if .enabled -}}
{{- range $index, $variable := .variables -}}
{{- if $index }}
{{ end -}}
- {name: {{ $variable }}_FILE, value: /run/secrets/ops-worker/{{ $variable }}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
