"""What an export does with each attribute: the table of actions.

PS3.15 Annex E: the Basic Application Level Confidentiality Profile with the options Clean
Descriptors, Retain Longitudinal Temporal Information with Modified Dates, and Retain Patient
Characteristics. Table E.1-1 says what must go. This table says what may stay, and everything that
it does not name is removed, so that an attribute that nobody thought of does not leave the site.
The attributes are those of the CT Image IOD and the RT Structure Set IOD (PS3.3 A.3, A.19).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from pydicom.datadict import tag_for_keyword
from pydicom.uid import CTImageStorage, RTStructureSetStorage


class Action(Enum):
    """What becomes of an attribute: words for people, and the action code of Table E.1-1."""

    KEEP = ("kept", "K")
    SEQUENCE = ("kept, its items by this table", "K")
    CODES = ("kept: codes of public schemes", "C")
    CLEAN = ("kept: no identity of the input is in it", "C")
    ROI_NAME = ("kept: the name of an organ", "C")
    NEW_UID = ("replaced by a new UID", "U")
    DATE = ("moved by the animal's number of days", "C")
    TIME = ("kept: a time of day", "C")
    ANIMAL = ("replaced by the animal's number", "D")
    LABEL = ("replaced by a fixed word", "D")
    EMPTY = ("emptied", "Z")
    REMOVE = ("removed", "X")

    @property
    def words(self) -> str:
        """What is done, for people."""
        return self.value[0]

    @property
    def code(self) -> str:
        """The code of Table E.1-1."""
        return self.value[1]


SOP_CLASSES = (str(CTImageStorage), str(RTStructureSetStorage))
# Codes of these schemes are public vocabulary; those of a site's own may be anything.
PUBLIC_SCHEMES = frozenset({"SCT", "SRT", "SNM3", "DCM", "FMA", "UCUM", "UMLS"})
LABELS: Mapping[str, str] = MappingProxyType(
    {"StructureSetLabel": "STRUCTURES", "ApprovalStatus": "UNAPPROVED"}
)
# CID 7050: what the header says was done.
METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)

_KEYWORDS: Mapping[Action, str] = {
    Action.KEEP: """
        SpecificCharacterSet ImageType SOPClassUID Modality
        PatientSex PatientAge PatientSize PatientWeight PatientSexNeutered
        SeriesNumber AcquisitionNumber InstanceNumber PatientPosition Laterality
        ImagePositionPatient ImageOrientationPatient SliceLocation SliceThickness
        SpacingBetweenSlices PixelSpacing Rows Columns SamplesPerPixel PhotometricInterpretation
        PlanarConfiguration BitsAllocated BitsStored HighBit PixelRepresentation
        SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit
        WindowCenter WindowWidth RescaleIntercept RescaleSlope LossyImageCompression
        LossyImageCompressionRatio LossyImageCompressionMethod BurnedInAnnotation
        RecognizableVisualFeatures ImagesInAcquisition PixelData
        KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector
        DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection ExposureTime
        XRayTubeCurrent Exposure ExposureInuAs ExposureInmAs ExposureTimeInuS ExposureTimeInms
        FocalSpots GeneratorPower RevolutionTime SingleCollimationWidth TotalCollimationWidth
        TableSpeed TableFeedPerRotation SpiralPitchFactor ContrastBolusVolume ContrastBolusTotalDose
        ContrastBolusIngredientConcentration ContrastFlowRate ContrastFlowDuration
        ReferencedSOPClassUID ReferencedFrameNumber
        ROINumber ROIVolume ROIGenerationAlgorithm ROIDisplayColor ContourNumber AttachedContours
        ContourGeometricType ContourSlabThickness ContourOffsetVector NumberOfContourPoints
        ContourData ReferencedROINumber ObservationNumber RTROIInterpretedType
    """,
    Action.SEQUENCE: """
        ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence
        ContourImageSequence StructureSetROISequence ROIContourSequence ContourSequence
        RTROIObservationsSequence
    """,
    Action.CODES: """
        PatientSpeciesCodeSequence PatientBreedCodeSequence AnatomicRegionSequence
        ContrastBolusAgentSequence RTROIIdentificationCodeSequence
        SegmentedPropertyCategoryCodeSequence
    """,
    Action.CLEAN: """
        Manufacturer ManufacturerModelName PatientSpeciesDescription PatientBreedDescription
        BodyPartExamined ScanOptions ConvolutionKernel FilterType RescaleType ContrastBolusAgent
        ContrastBolusRoute
    """,
    Action.ROI_NAME: "ROIName",
    Action.NEW_UID: """
        SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
        ReferencedFrameOfReferenceUID ReferencedSOPInstanceUID
    """,
    Action.DATE: """
        StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate StructureSetDate
        AcquisitionDateTime
    """,
    Action.TIME: """
        StudyTime SeriesTime AcquisitionTime ContentTime InstanceCreationTime StructureSetTime
        ContrastBolusStartTime ContrastBolusStopTime
    """,
    Action.ANIMAL: "PatientName PatientID",
    Action.LABEL: "StructureSetLabel ApprovalStatus",
    Action.EMPTY: """
        PatientBirthDate ReferringPhysicianName AccessionNumber StudyID OperatorsName
        PositionReferenceIndicator ROIInterpreter
        ResponsiblePerson ResponsibleOrganization BreedRegistrationSequence
    """,
}


def _table() -> Mapping[int, Action]:
    actions: dict[int, Action] = {}
    for action, text in _KEYWORDS.items():
        for keyword in text.split():
            tag = tag_for_keyword(keyword)
            if tag is None or tag in actions:
                msg = f"{keyword} stands twice in the profile, or is no keyword of DICOM"
                raise ValueError(msg)
            actions[tag] = action
    return MappingProxyType(actions)


ACTIONS = _table()


def action_for(tag: int) -> Action:
    """What becomes of an attribute; everything that the table does not name is removed."""
    return ACTIONS.get(tag, Action.REMOVE)
