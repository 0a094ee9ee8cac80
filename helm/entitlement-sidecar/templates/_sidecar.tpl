{{/*
The sidecar for a pod of another chart, which names this one as a dependency:

    spec:
      initContainers:
        {{- include "entitlement-sidecar.sidecar" . | nindent 8 }}
      volumes:
        {{- include "entitlement-sidecar.volumes" . | nindent 8 }}

It is an init container with restartPolicy Always: it starts before the application, which then finds it at
127.0.0.1:7400, and ends after it, so that the last usage is still kept and shipped.
A chart that gives the dependency an alias passes `.Subcharts.ALIAS` instead of the dot.
*/}}

{{- define "entitlement-sidecar.sidecar" -}}
{{- $own := . -}}
{{- range $name, $chart := .Subcharts }}{{ if eq $name "entitlement-sidecar" }}{{ $own = $chart }}{{ end }}{{ end -}}
{{- $values := $own.Values.sidecar -}}
- name: entitlement-sidecar
  image: {{ include "entitlement-sidecar.image" $own }}
  imagePullPolicy: {{ $own.Values.image.pullPolicy }}
  restartPolicy: Always
  args: [sidecar]
  env:
    - name: ENTITLEMENTS_LISTEN
      value: 127.0.0.1:7400
    # The kubelet and Prometheus come from outside the pod.
    - name: ENTITLEMENTS_HTTP
      value: 0.0.0.0:7401
    - name: ENTITLEMENTS_PLANSTORE
      value: {{ include "entitlement-sidecar.sidecar.planstore" $own }}
    - name: ENTITLEMENTS_TOKEN_FILE
      value: /run/entitlements/token/token
    {{- if $values.trustedKeys.configMap }}
    - name: ENTITLEMENTS_TRUSTED_KEYS
      value: /run/entitlements/keys/keys
    {{- end }}
    {{- if $values.callers.configMap }}
    - name: ENTITLEMENTS_CALLERS
      value: /run/entitlements/callers/callers.yaml
    {{- end }}
    {{- with $values.redis }}{{ if .secret }}
    {{- include "entitlement-sidecar.secretVariable" (list "ENTITLEMENTS_REDIS" .secret .key) | nindent 4 }}
    {{- if .passwordKey }}
    - name: ENTITLEMENTS_REDIS_PASSWORD_FILE
      value: /run/entitlements-redis/{{ .passwordKey }}
    {{- end }}
    {{- end }}{{ end }}
    - name: ENTITLEMENTS_STATE_DIR
      value: /var/lib/entitlements
    - name: ENTITLEMENTS_FRONT
      value: {{ $values.front }}
    - name: ENTITLEMENTS_MAX_SNAPSHOT_BYTES
      # Without int64 a template writes large numbers as 6.7e+07.
      value: {{ int64 $values.maxSnapshotBytes | quote }}
    - name: ENTITLEMENTS_LOG_LEVEL
      value: {{ $values.logLevel }}
  ports:
    - {name: entitlements, containerPort: 7401}
  startupProbe:
    httpGet: {path: /readyz, port: 7401}
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: {path: /readyz, port: 7401}
    periodSeconds: 5
  livenessProbe:
    httpGet: {path: /livez, port: 7401}
    periodSeconds: 10
    failureThreshold: 6
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- include "entitlement-sidecar.containerSecurity" $own | nindent 4 }}
  volumeMounts:
    - {name: entitlement-state, mountPath: /var/lib/entitlements}
    - {name: entitlement-tmp, mountPath: /tmp}
    - {name: entitlement-token, mountPath: /run/entitlements/token, readOnly: true}
    {{- if $values.redis.secret }}
    - {name: entitlement-redis, mountPath: /run/entitlements-redis, readOnly: true}
    {{- end }}
    {{- if $values.trustedKeys.configMap }}
    - {name: entitlement-keys, mountPath: /run/entitlements/keys, readOnly: true}
    {{- end }}
    {{- if $values.callers.configMap }}
    - {name: entitlement-callers, mountPath: /run/entitlements/callers, readOnly: true}
    {{- end }}
{{- end }}

{{- define "entitlement-sidecar.volumes" -}}
{{- $own := . -}}
{{- range $name, $chart := .Subcharts }}{{ if eq $name "entitlement-sidecar" }}{{ $own = $chart }}{{ end }}{{ end -}}
{{- $values := $own.Values.sidecar -}}
- name: entitlement-state
  {{- toYaml $values.state | nindent 2 }}
- name: entitlement-tmp
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
- name: entitlement-token
  secret:
    secretName: {{ required "sidecar.token.secret: name the Secret with the plan store's bearer token" $values.token.secret }}
    # Readable without fsGroup, which belongs to the pod; only containers that mount it see it.
    defaultMode: 0444
    items:
      - {key: {{ $values.token.key }}, path: token}
{{- with $values.redis }}{{ if .secret }}
- name: entitlement-redis
  secret:
    secretName: {{ .secret }}
    defaultMode: 0444
{{- end }}{{ end }}
{{- with $values.trustedKeys }}{{ if .configMap }}
- name: entitlement-keys
  configMap:
    name: {{ .configMap }}
    items:
      - {key: {{ .key }}, path: keys}
{{- end }}{{ end }}
{{- with $values.callers }}{{ if .configMap }}
- name: entitlement-callers
  configMap:
    name: {{ .configMap }}
    items:
      - {key: {{ .key }}, path: callers.yaml}
{{- end }}{{ end }}
{{- end }}

{{- define "entitlement-sidecar.sidecar.planstore" -}}
{{- if .Values.sidecar.planstore -}}
{{ .Values.sidecar.planstore }}
{{- else if .Values.planstore.enabled -}}
{{ include "entitlement-sidecar.planstore.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.planstore.service.grpcPort }}
{{- else -}}
{{ fail "sidecar.planstore: give HOST:PORT of the plan store's gRPC, or set planstore.enabled=true" }}
{{- end -}}
{{- end }}
