{{/* Names and labels. A component is dataset, trainer, generator, triton or run. */}}

{{- define "marsam.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: the longest suffix, "-generator-headless", still fits the 63 of a Service. */}}
{{- define "marsam.fullname" -}}
{{- $name := include "marsam.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selectors say. Immutable on a Deployment: tests/helm/selectors.json holds it. The trainer labels runs alike. */}}
{{- define "marsam.selector" -}}
app.kubernetes.io/name: marsam
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "marsam.labels" -}}
{{- $labels := dict -}}
{{- range $key, $value := .root.Values.commonLabels -}}{{- $_ := set $labels $key (include "marsam.plain" $value) -}}{{- end -}}
{{- $own := include "marsam.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" (.root.Chart.AppVersion | toString) -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "marsam" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- include "marsam.texts" (merge $own $labels) -}}
{{- end -}}

{{/* Labels of pods: {root, component, extra}. No chart version: a new chart alone restarts nobody. */}}
{{- define "marsam.podLabels" -}}
{{- $labels := omit (include "marsam.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/managed-by" -}}
{{- range $key, $value := .extra -}}{{- $labels = merge $labels (dict $key (include "marsam.plain" $value)) -}}{{- end -}}
{{- include "marsam.texts" $labels -}}
{{- end -}}

{{/* The metadata of an object: {root, component, suffix}; the namespace is always the release's. */}}
{{- define "marsam.metadata" -}}
name: {{ printf "%s%s" (include "marsam.fullname" .root) (.suffix | default "") | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels: {{- include "marsam.labels" . | nindent 2 }}
{{- end -}}

{{- define "marsam.serviceAccountName" -}}
{{- $account := (index .root.Values (ternary "runs" .component (eq .component "run"))).serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (printf "%s-%s" (include "marsam.fullname" .root) .component) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* {root, image} → registry/repository:tag or @digest. */}}
{{- define "marsam.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .root.Values.image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "marsam.pullSecrets" -}}
{{- range concat .Values.global.imagePullSecrets .Values.image.pullSecrets | uniq }}
- name: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The same with labels of its own: {root, component, suffix, extra}. */}}
{{- define "marsam.metadataWith" -}}
{{- $metadata := include "marsam.metadata" . | fromYaml -}}
{{- range $key, $value := .extra -}}{{- $_ := set $metadata.labels $key (include "marsam.plain" $value) -}}{{- end -}}
{{- toYaml $metadata -}}
{{- end -}}
