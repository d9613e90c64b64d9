{{- define "trtcoder.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "trtcoder.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "trtcoder.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "trtcoder.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trtcoder.selector" -}}
app.kubernetes.io/name: {{ include "trtcoder.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trtcoder.labels" -}}
{{ include "trtcoder.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What cannot be said by the schema of the values. */}}
{{- define "trtcoder.check" -}}
{{- $engine := .Values.engine -}}
{{- $sources := list $engine.claim.name $engine.image.reference $engine.fetch.image | compact -}}
{{- if ne (len $sources) 1 -}}
{{- fail "engine: give exactly one of engine.claim.name, engine.image.reference and engine.fetch.image" -}}
{{- end -}}
{{- if and (not .Values.apiKeys.secretName) (not .Values.insecure) -}}
{{- fail "give apiKeys.secretName, or insecure=true to let everybody in who reaches the service" -}}
{{- end -}}
{{- $reserved := list "host" "port" "api-key-file" "insecure" "drain" "prefix-store" "config" -}}
{{- range $name, $value := .Values.options -}}
{{- if has $name $reserved -}}
{{- fail (printf "options.%s: the chart sets it; use its own value for it" $name) -}}
{{- end -}}
{{- end -}}
{{- $scaling := .Values.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (lt (int $scaling.minReplicas) 1) -}}
{{- fail "autoscaling.minReplicas: an HorizontalPodAutoscaler needs at least 1; keda goes to 0" -}}
{{- end -}}
{{- end -}}
