{{/* Reading values: numbers, quantities, settings, profiles. */}}

{{/* A number as a program reads it: YAML's integers arrive as floats, and 2e+11 is no integer to anybody else. */}}
{{- define "marsam.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end -}}

{{/* A map of texts, every one of them quoted: a label `y` or an annotation `1e3` is neither bool nor number. */}}
{{- define "marsam.texts" -}}
{{- range $key, $value := . }}
{{ $key | quote }}: {{ include "marsam.plain" $value | quote }}
{{- else }}
{}
{{- end }}
{{- end -}}

{{/* The port that the store is let be reached at: the one said, or the endpoint's own. */}}
{{- define "marsam.storePort" -}}
{{- $endpoint := urlParse .Values.store.endpoint -}}
{{- $own := regexFind ":[0-9]+$" $endpoint.host | trimPrefix ":" -}}
{{- int64 .Values.networkPolicy.storePort | default (int64 $own) | default (ternary 80 443 (eq $endpoint.scheme "http")) -}}
{{- end -}}

{{/* A memory quantity in MiB, rounded down. */}}
{{- define "marsam.mebibytes" -}}
{{- $text := . | toString -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $factors := dict "" 9.5367431640625e-07 "k" 0.00095367431640625 "M" 0.95367431640625 "G" 953.67431640625 "T" 953674.31640625 "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 -}}
{{- mulf $number (get $factors (regexFind "[A-Za-z]*$" $text)) | floor | int64 -}}
{{- end -}}

{{/* {given, count, resourceName} → resources with the GPUs among the limits and requests. */}}
{{- define "marsam.resources" -}}
{{- $found := deepCopy (.given | default dict) -}}
{{- if .count -}}
{{- range $side := list "requests" "limits" -}}
{{- $quantities := get $found $side | default dict -}}
{{- $_ := set $found $side (set $quantities $.resourceName (include "marsam.plain" $.count)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* {given, gpus} → tolerations, with the taint of GPU nodes when there is a GPU: nobody else adds it. */}}
{{- define "marsam.tolerations" -}}
{{- $all := .given | default list -}}
{{- if .gpus -}}
{{- $all = append $all (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- if $all -}}{{- toYaml ($all | uniq) -}}{{- end -}}
{{- end -}}

{{/* Environment of a container: {env: {name: value}, secretEnv: {name: {secret, key}}}. */}}
{{- define "marsam.env" -}}
{{- range $name, $value := .env }}
- name: {{ $name | quote }}
  value: {{ include "marsam.plain" $value | quote }}
{{- end }}
{{- range $name, $from := .secretEnv }}
- name: {{ $name | quote }}
  valueFrom: {secretKeyRef: {name: {{ $from.secret | quote }}, key: {{ $from.key | quote }}}}
{{- end }}
{{- end -}}

{{/* Volumes of a pod, and where they are mounted, from [{name, mountPath, readOnly, source}]. */}}
{{- define "marsam.volumes" -}}
{{- range . }}
- {{ merge (dict "name" .name) .source | toJson }}
{{- end }}
{{- end -}}
{{- define "marsam.mounts" -}}
{{- range . }}
- {name: {{ .name | quote }}, mountPath: {{ .mountPath | quote }}, readOnly: {{ .readOnly | default false }}}
{{- end }}
{{- end -}}
